"""The adapter modes: the exact ones equal the published code's frozen numbers, the published deviations its own."""

import pytest
from conftest import FP32, LAVIN_CASES, golden_case, max_error

from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.families import get_family
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.verify.adapter_modes import PUBLISHED, folded, unfolded
from eas_export.verify.reference import Reference

RUNS = {"v3": (unfolded, folded), "v2": ("published fold",), "v1": ("published dynamic decode",)}


@pytest.mark.parametrize("run", ["img1", "txt1"])
@pytest.mark.parametrize("name", LAVIN_CASES)
def test_each_mode_equals_the_published_code(name, run):
    case = golden_case(name)
    inputs, limits = case.prompts(run), Limits()
    parameters = network_parameters(prune(case.checkpoint, case.plan), case.plan, PRECISIONS["fp32"], limits)
    readers = {key: tensor.read for key, tensor in parameters.items()}
    gains = {i: case.checkpoint.tensors[f"layers.{i}.ffn_norm.weight"].read().float() for i in case.plan.skipped}
    reference = Reference(case.checkpoint.config, case.plan, limits, readers)
    for golden, modes in RUNS.items():
        for mode in modes:
            made = PUBLISHED[mode](gains) if isinstance(mode, str) else mode
            (got,) = reference.read([inputs.prompts], [inputs.forced_tokens], mode=made)
            assert max_error(got.logits, case.golden[f"{run}/{golden}/logits"]) < FP32, (golden, mode)


def test_the_published_deviations_are_all_of_a_familys():
    assert set(get_family("lavin").published_deviations) == set(PUBLISHED)
