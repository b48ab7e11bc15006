"""The offline fold: exact algebra, computed in float32 and rounded once; nothing is read before it is asked for."""

import pytest
import torch
from meter_cases import LIMITS, MeterCase, opened

from eas_export.core.plan import make_plan
from eas_export.core.precision import PRECISIONS
from eas_export.networks.cross_encoder.modules import folded_cross_encoder, unfolded_cross_encoder
from eas_export.networks.cross_encoder.parameters import fold_bias, fold_weight, unfolded_parameters
from eas_export.networks.network import parameter_shapes
from eas_export.networks.parameters import network_parameters
from eas_export.networks.skeleton import skeleton

CASE = MeterCase("vqa_skip10")


def test_a_folded_linear_layer_reads_what_the_adapter_read():
    torch.manual_seed(0)
    weight, bias = torch.randn(7, 5), torch.randn(7)
    outer, outer_bias, inner, inner_bias = torch.randn(5, 4), torch.randn(5), torch.randn(4, 5), torch.randn(4)
    x = torch.randn(9, 5)
    adapted = x + (x @ inner.T + inner_bias) @ outer.T + outer_bias
    folded = x @ fold_weight(weight, outer, inner).T + fold_bias(bias, weight, outer, outer_bias, inner_bias)
    assert torch.allclose(folded, adapted @ weight.T + bias, atol=1e-5)


@pytest.mark.parametrize("skip", [[], CASE.skip, list(range(24))], ids=["none", "ten", "all"])
@pytest.mark.parametrize("reading", ["published", "paper"])
def test_parameters_are_the_networks_by_name_and_shape(skip, reading):
    checkpoint, plan, _ = opened(CASE.file, skip, CASE.text_heads, reading)
    with skeleton():
        folded = folded_cross_encoder(checkpoint.config, plan, LIMITS)
        unfolded = unfolded_cross_encoder(checkpoint.config, plan)
    made = network_parameters(checkpoint, plan, PRECISIONS["fp32"], LIMITS)
    for network, parameters in ((folded, made), (unfolded, unfolded_parameters(checkpoint, plan))):
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in parameters.items()} == parameter_shapes(network)
    assert not [name for name in made if "adapter" in name]


def test_folded_weights_are_rounded_once():
    checkpoint, plan, _ = opened(CASE.file, CASE.skip, CASE.text_heads)
    wide, narrow = (network_parameters(checkpoint, plan, PRECISIONS[name], LIMITS) for name in ("fp32", "fp16"))
    for name, tensor in narrow.items():
        pool = ".pool." in name  # read once per text or image, and kept in float32
        assert tensor.dtype == (torch.float32 if pool else torch.float16)
        assert tensor.read().equal(wide[name].read() if pool else wide[name].read().half()), name


def test_both_names_of_an_attention_are_one_plan():
    """12 and 18 are one attention as published: naming either, or both, leaves the same tensors."""
    left = [set(opened(CASE.file, skip, CASE.text_heads)[0].tensors) for skip in ([12], [18], [12, 18])]
    assert left[0] == left[1] == left[2]
    assert make_plan(24, "12,18", "--skip").skipped == (12, 18)
