"""The operations counted from shapes are those that PyTorch counts."""

import pytest
import torch
from meter_cases import DAS_CASES, LIMITS, METER_CASES, PLAIN_CASES, MeterCase, graph_inputs, opened
from torch.utils.flop_counter import FlopCounterMode

from eas_export.checkpoint.eas_adapter import GROUPS
from eas_export.core.precision import PRECISIONS
from eas_export.networks.cross_encoder.flops import flops
from eas_export.networks.cross_encoder.modules import unfolded_cross_encoder
from eas_export.networks.network import build_network
from eas_export.networks.skeleton import skeleton


@pytest.mark.parametrize(
    "name, reading",
    [
        *((name, reading) for name in METER_CASES for reading in ("published", "paper")),
        *((name, "published") for name in (*PLAIN_CASES, *DAS_CASES)),
    ],
)
def test_the_graphs_operations_are_counted(name, reading):
    """Of an adapter that is not folded, the count is the same in both networks."""
    case = MeterCase(name)
    checkpoint, plan, graph = opened(case.file, case.skip, case.text_heads, reading)
    config = checkpoint.config
    inputs = {each: torch.from_numpy(value[:1]).to("meta") for each, value in graph_inputs(case).items()}
    with skeleton():
        networks = {
            False: build_network(config, plan, PRECISIONS["fp32"], LIMITS),
            True: unfolded_cross_encoder(config, plan),
        }
    for adapters, network in networks.items():
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            graph.module(network)(inputs)
        parts = flops(config, plan.skipped, adapters)
        grouped = 0  # B of an adapter is whole in our network; as trained half of it is zero, and not multiplied
        if adapters and config.before_adapter:  # 2 n dim rank for C, half of that for B
            grouped = parts["cross-modal adapters"] * (1 - 1 / GROUPS) / (1 + 1 / GROUPS)
        assert sum(parts.values()) + grouped == counted.get_total_flops()
