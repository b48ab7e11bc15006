"""LLaVA-EAS equal to the published code: prefill and eight decode steps, fold state, folded weights; bf16 without loss."""

import pytest
import torch
from conftest import RUN_HERE, llava_golden_case, max_error
from engine_stand_in import open_stand_in
from test_golden import check_against_golden, check_folded_weights

from eas_export.backends.opening import open_runtime
from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.generation.generate import generate, join_generations
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.verify.decoder_samples import single_rows
from eas_export.verify.reference import Reference


@pytest.mark.parametrize("backend", RUN_HERE)
@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_folded_weights_equal_the_published_code(llava_case, bundle_of, backend, run):
    """Folded weights belong to one prompt: row by row."""
    inputs, runtime = llava_case.prompts(run), open_runtime(bundle_of(llava_case), backend)
    rows = enumerate(single_rows(inputs.prompts, llava_case.checkpoint.config.vision.tokens))
    got = [generate(runtime, row, forced=inputs.forced_tokens[:, i : i + 1]) for i, row in rows]
    check_against_golden(llava_case, run, join_generations(got))
    if run == "img1":
        check_folded_weights(llava_case, got[0])


@pytest.mark.parametrize("backend", RUN_HERE)
@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_lowrank_equals_the_published_code(llava_case, bundle_of, backend, run):
    inputs = llava_case.prompts(run)
    runtime = open_runtime(bundle_of(llava_case, fold="lowrank"), backend)
    check_against_golden(llava_case, run, generate(runtime, inputs.prompts, forced=inputs.forced_tokens))


@pytest.mark.parametrize("fold, run", [("weights", "img1"), ("lowrank", "b3")])
def test_rewritten_graphs_equal_the_published_code(llava_case, bundle_of, fold, run):
    """As TensorRT is given them."""
    inputs = llava_case.prompts(run)
    runtime = open_stand_in(bundle_of(llava_case, fold=fold)).runtime
    check_against_golden(llava_case, run, generate(runtime, inputs.prompts, forced=inputs.forced_tokens))


@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_the_ledgers_reference_equals_the_published_code(llava_case, run):
    inputs, checkpoint, plan, limits = llava_case.prompts(run), llava_case.checkpoint, llava_case.plan, Limits()
    tensors = network_parameters(prune(checkpoint, plan), plan, PRECISIONS["fp32"], limits)
    reference = Reference(checkpoint.config, plan, limits, {name: tensor.read for name, tensor in tensors.items()})
    rows = single_rows(inputs.prompts, checkpoint.config.vision.tokens)
    forced = [inputs.forced_tokens[:, row : row + 1] for row in range(len(rows))]
    check_against_golden(llava_case, run, join_generations(reference.read(rows, forced)))


def test_ours_is_not_the_published_fold(llava_case, bundle_of):
    inputs = llava_case.prompts("img1")
    got = generate(open_runtime(bundle_of(llava_case), "onnxruntime"), inputs.prompts, forced=inputs.forced_tokens)
    assert max_error(got.logits[1:], llava_case.golden["img1/v2/logits"][1:]) > 0.1


def test_bf16_is_kept_as_it_is_where_nothing_is_folded_in(bundle_of):
    """Every number of the file, by its bits; gate and up of skipped layers take the norm's weight in, and routers the temperature."""
    case = llava_golden_case("half")
    store, checkpoint = bundle_of(case, "bf16").store, prune(case.checkpoint, case.plan)
    folded = [f"layers.{i}.ffn.{part}.weight" for i in case.plan.skipped for part in ("gate", "up")]
    in_bf16 = {
        n for n, t in checkpoint.tensors.items() if t.dtype == torch.bfloat16
    }  # the tower's folder is in float32
    same = (in_bf16 & set(store.entries)) - set(folded)
    assert len(same) == 3 + 6 * 2 + len(case.plan.kept) * 7 + 4  # embedding, norm, head; layers; projector
    for name in same:
        assert torch.equal(store.tensor(name), checkpoint.tensors[name].read()), name
