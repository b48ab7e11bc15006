"""Equal to the published code: prefill and eight decode steps, fold state, folded weights."""

import numpy as np
import pytest
import torch
from conftest import FP32, RUN_HERE, GoldenCase, golden_case, max_error

from eas_export.backends.opening import open_runtime
from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.generation.generate import Generation, generate, join_generations
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.verify.decoder_samples import single_rows
from eas_export.verify.reference import Reference

STATE = 1e-5


def check_against_golden(case: GoldenCase, run: str, got: Generation) -> None:
    golden = case.golden
    assert max_error(got.logits, golden[f"{run}/v3/logits"]) < FP32
    assert np.array_equal(got.tokens, golden[f"{run}/greedy_tokens"])
    assert max_error(got.state["router"].transpose(0, 1), golden[f"{run}/v3/router"]) < STATE
    skipped = list(case.plan.skipped)
    if skipped:
        assert max_error(got.state["pooled"].transpose(0, 1), golden[f"{run}/v3/pooled"][skipped]) < STATE
    else:
        assert "pooled" not in got.state
    with_image = case.image_rows(run)
    if len(with_image):
        want = golden[f"{run}/image_embeds"][with_image].reshape(got.image_features.shape)
        assert max_error(got.image_features, want) < FP32


def check_folded_weights(case: GoldenCase, got: Generation) -> None:
    """Against the goldens' exact fold of img1: its bias and its product with a ramp."""
    ramp = torch.linspace(-1, 1, case.checkpoint.config.dim)
    for layer in range(case.plan.sites):
        parts = [name for name in got.folded if name.startswith(f"folded.layers.{layer}.")]
        bias = torch.cat([got.folded[name] for name in parts if name.endswith(".bias")])
        probe = torch.cat([got.folded[name] @ ramp for name in parts if name.endswith(".weight")])
        assert max_error(bias, case.golden[f"img1/v3fold/L{layer}/bias"]) < FP32
        assert max_error(probe, case.golden[f"img1/v3fold/L{layer}/probe"]) < FP32


@pytest.mark.parametrize("backend", RUN_HERE)
@pytest.mark.parametrize("run", ["img1", "txt1"])
def test_folded_weights_equal_the_published_code(lavin_case, bundle_of, backend, run):
    inputs = lavin_case.prompts(run)
    got = generate(open_runtime(bundle_of(lavin_case), backend), inputs.prompts, forced=inputs.forced_tokens)
    check_against_golden(lavin_case, run, got)
    if run == "img1":
        check_folded_weights(lavin_case, got)


@pytest.mark.parametrize("backend", RUN_HERE)
@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_lowrank_equals_the_published_code(lavin_case, bundle_of, backend, run):
    inputs = lavin_case.prompts(run)
    runtime = open_runtime(bundle_of(lavin_case, fold="lowrank"), backend)
    check_against_golden(lavin_case, run, generate(runtime, inputs.prompts, forced=inputs.forced_tokens))


@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_the_ledgers_reference_equals_the_published_code(lavin_case, run):
    """Block by block, rows and steps at once."""
    inputs, config, limits = lavin_case.prompts(run), lavin_case.checkpoint.config, Limits()
    tensors = network_parameters(
        prune(lavin_case.checkpoint, lavin_case.plan), lavin_case.plan, PRECISIONS["fp32"], limits
    )
    reference = Reference(config, lavin_case.plan, limits, {name: tensor.read for name, tensor in tensors.items()})
    rows = single_rows(inputs.prompts, config.vision.tokens)
    forced = [inputs.forced_tokens[:, row : row + 1] for row in range(len(rows))]
    check_against_golden(lavin_case, run, join_generations(reference.read(rows, forced)))


@pytest.mark.parametrize("backend", RUN_HERE)
@pytest.mark.parametrize("run", ["img1", "txt1"])
def test_both_fold_modes_are_one_function(lavin_case, bundle_of, backend, run):
    inputs = lavin_case.prompts(run)
    folded, lowrank = (
        generate(open_runtime(bundle_of(lavin_case, fold=fold), backend), inputs.prompts, forced=inputs.forced_tokens)
        for fold in ("weights", "lowrank")
    )
    assert max_error(folded.logits, lowrank.logits) < 5e-5
    for name, value in folded.state.items():
        assert max_error(lowrank.state[name], value) < STATE


def test_greedy_decoding_feeds_its_own_tokens(bundle_of):
    case = golden_case("first")
    got = generate(open_runtime(bundle_of(case), "onnxruntime"), case.prompts("img1").prompts, steps=8)
    assert np.array_equal(got.tokens, case.golden["img1/greedy_tokens"])


@pytest.mark.parametrize("fold, run", [("weights", "img1"), ("weights", "txt1"), ("lowrank", "b3")])
def test_fp16_error_is_at_most_twice_pytorchs_own(lavin_case, bundle_of, fold, run):
    inputs = lavin_case.prompts(run)

    def logits(precision: str, backend: str) -> torch.Tensor:
        runtime = open_runtime(bundle_of(lavin_case, precision, fold), backend)
        return generate(runtime, inputs.prompts, forced=inputs.forced_tokens).logits

    exact = logits("fp32", "pytorch")
    own = max_error(logits("fp16", "pytorch"), exact)
    ours = max_error(logits("fp16", "onnxruntime"), exact)
    assert 0 < ours <= 2 * own


def test_ours_is_not_a_published_shortcut(lavin_case, bundle_of):
    """Decoding with a pooled feature made anew at each step (v1), or with the published bias (v2), is another function."""
    if not lavin_case.plan.skipped:
        pytest.skip("nothing is skipped: the dynamic decode equals the frozen one")
    inputs = lavin_case.prompts("img1")
    got = generate(open_runtime(bundle_of(lavin_case), "onnxruntime"), inputs.prompts, forced=inputs.forced_tokens)
    for shortcut in ("v1", "v2"):
        assert max_error(got.logits[1:], lavin_case.golden[f"img1/{shortcut}/logits"][1:]) > 100 * FP32
