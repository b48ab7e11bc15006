"""The decoders that EAS is compared with equal the published code, and cost what they must."""

import shutil
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from conftest import FP32, GOLDEN, RUN_HERE, GoldenCase, max_error

from eas_export.backends.opening import open_runtime
from eas_export.bundle.bundle import Bundle
from eas_export.core.errors import UserError
from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.generation.generate import Generation, generate, join_generations
from eas_export.networks.decoder.constant_routers import router_table
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.pipeline import verify
from eas_export.verify.decoder_samples import single_rows
from eas_export.verify.reference import Reference
from eas_export.verify.report import Verdict

STATE = 1e-5


@dataclass(frozen=True)
class ComparatorCase(GoldenCase):
    """Of a batch, the published code's numbers of each row alone: in a batch its images share the first one's routers."""

    @property
    def skip(self) -> str | None:
        return "0,5" if self.name.endswith("first_search") else None

    def logits(self, run: str) -> np.ndarray:
        """[steps + 1, B, vocab]"""
        if run != "b3":
            return self.golden[f"{run}/logits"]
        return np.concatenate([self.golden[f"b3/row{row}_alone/logits"] for row in range(3)], 1)


def case_of(system: str, name: str) -> ComparatorCase:
    return ComparatorCase(f"{system}-{name}", GOLDEN / "comparators" / system / name)


CASES = [
    case_of(*names)
    for names in (("lavin", "router"), ("lavin", "scaled"), ("lavin-das", "mid"), ("lavin-das", "first_search"))
]
BY_MODALITY = [case for case in CASES if "router" in case.name or "mid" in case.name]  # one of each system
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request) -> ComparatorCase:
    return request.param


def answers(bundle: Bundle, backend: str, case: ComparatorCase, run: str) -> Generation:
    """Rows of both modalities apart where folded weights belong to one."""
    runtime, inputs = open_runtime(bundle, backend), case.prompts(run)
    if not runtime.sets:
        return generate(runtime, inputs.prompts, forced=inputs.forced_tokens)
    rows = single_rows(inputs.prompts, case.checkpoint.config.image_tokens)
    forced = inputs.forced_tokens
    return join_generations([generate(runtime, row, forced=forced[:, i : i + 1]) for i, row in enumerate(rows)])


@pytest.mark.parametrize("backend", RUN_HERE)
@pytest.mark.parametrize("fold", ["weights", "lowrank"])
def test_they_equal_the_published_code(case, bundle_of, fold, backend):
    bundle = bundle_of(case, fold=fold)
    for run in ("img1", "txt1", "b3"):
        got = answers(bundle, backend, case, run)
        assert max_error(got.logits, case.logits(run)) < FP32
        assert ("router" in got.state) == (fold == "lowrank")
        if fold == "lowrank" and run != "b3":
            assert max_error(got.state["router"][0], case.golden[f"{run}/router"][:, 0]) < STATE
    with_image = case.golden["img1/image_embeds"]
    assert max_error(answers(bundle, backend, case, "img1").image_features, with_image[0]) < FP32


@pytest.mark.parametrize(("case", "fold"), list(zip(BY_MODALITY, ("weights", "lowrank"))), ids=str)
def test_fp16_is_as_exact_as_the_ledger_asks(bundle_of, case, fold):
    assert verify(bundle_of(case, "fp16", fold), case.folder).verdict == Verdict.SAME


def test_folded_weights_in_bf16_run_where_a_backend_widens_them(bundle_of):
    case = BY_MODALITY[0]
    assert verify(bundle_of(case, "bf16"), case.folder).verdict == Verdict.SAME


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
@pytest.mark.parametrize("case", BY_MODALITY, ids=lambda case: case.name)
def test_verify_finds_planted_faults_in_their_layers(bundle_of, case, fold):
    report = verify(bundle_of(case, fold=fold), case.folder, negative_controls=True, against="transformers")
    assert report.verdict == Verdict.SAME
    planted = {control.name: control for control in report.controls if not control.why_not}
    assert all(control.ok for control in planted.values()), planted
    assert {"transposed weight", "weights of the other modality", "position off by one", "stale cache slot"} <= set(
        planted
    )
    assert verify(bundle_of(case, fold=fold)).verdict == Verdict.SELF_CONSISTENT


@pytest.mark.parametrize("case", BY_MODALITY, ids=lambda case: case.name)
def test_prompts_of_both_modalities_in_one_batch_are_refused_where_weights_belong_to_one(bundle_of, case):
    runtime = open_runtime(bundle_of(case), "onnxruntime")
    assert set(runtime.sets) == {"text", "image"} and "fold" not in runtime.sessions
    with pytest.raises(UserError, match=r"with an image and prompts without.*--fold lowrank"):
        generate(runtime, case.prompts("b3").prompts)


def test_a_skipped_layer_has_nothing_of_its_attention_and_feed_forward_network(bundle_of):
    case = case_of("lavin-das", "mid")
    for fold in ("weights", "lowrank"):
        bundle = bundle_of(case, fold=fold)
        gone = [name for name in bundle.store.entries if name.startswith(("layers.1.", "layers.3."))]
        assert not [
            name for name in gone if "attention" in name or "ffn" in name or ".norm" in name.replace(".norm.weight", "")
        ]
        widths = {case.checkpoint.config.dim, case.checkpoint.config.skipped_adapter.rank, 2 * (16 + 1), 2}
        sizes = {size for name in gone for size in bundle.store.entries[name].shape}
        assert sizes <= widths, sizes
        caches = [t.name for t in bundle.manifest.graphs["decode"].inputs if t.name.startswith("past_key_values.")]
        assert not [name for name in caches if name.split(".")[1] in "13"] and len(caches) == 2 * 4
        assert not [name for name in bundle.store.entries if name.startswith("modality")]


def test_every_layer_of_the_ledgers_reference_equals_the_published_code(case):
    """As it was trained: the modality token is computed, and the routers read it. States reach 32, so errors are relative."""
    inputs, plan, limits = case.prompts("img1"), case.plan, Limits()
    parameters = network_parameters(prune(case.checkpoint, plan), plan, PRECISIONS["fp32"], limits)
    readers = {name: tensor.read for name, tensor in parameters.items()}
    hidden: list[torch.Tensor] = []
    Reference(case.checkpoint.config, plan, limits, readers).read(
        [inputs.prompts], [inputs.forced_tokens], on_block=lambda prompt, layer, x: hidden.append(x.clone())
    )
    want = case.golden["img1/hidden"][:, 0]  # [layers, 1 + S, dim]
    assert max_error(torch.stack(hidden), want) < FP32 * max(1, np.abs(want).max())


def operators(bundle: Bundle, graph: str = "decode") -> Counter:
    return Counter(node.op_type for node in ir.load(bundle.graph_file(graph)).graph)


def test_decoding_costs_no_node_more_than_without_adapters(bundle_of, tmp_path):
    """q, k and v have biases, which are part of their products; a layer that DAS skipped has two products."""
    from eas_export.pipeline import build

    case = case_of("lavin", "router")
    floor = build(case.folder, tmp_path / "floor", adapters="drop", verify=False, **case.limits).bundle
    assert floor.manifest.config.prefix == 0
    assert operators(bundle_of(case)) == operators(floor)
    assert operators(bundle_of(case_of("lavin-lora", "r4"), fold="none")) == operators(floor)
    beside = operators(bundle_of(case, fold="lowrank")) - operators(floor)
    layers = case.plan.sites
    assert beside["Gemm"] == 2 * layers and beside["Mul"] == layers
    das = case_of("lavin-das", "mid")
    kept = {op: count // layers for op, count in operators(floor).items() if count >= layers}
    fewer = operators(floor) - operators(bundle_of(das))
    assert fewer["Attention"] == fewer["Swish"] == 2 and fewer["Gemm"] == 2 * (kept["Gemm"] - 2)


def test_the_modality_token_is_not_computed(bundle_of):
    for case in BY_MODALITY:
        bundle = bundle_of(case)
        assert case.checkpoint.config.prefix == 1 and bundle.manifest.config.prefix == 0
        assert bundle.manifest.trained == case.checkpoint.config
        assert bundle.manifest.config.prompt_position == 1


def test_a_bundle_of_constants_cannot_be_reread_as_another_fold_mode(bundle_of):
    """Its store has either the weights with the adapters in them, or both apart."""
    from eas_export.networks.graphs import fold_modes

    case = case_of("lavin", "router")
    assert fold_modes(case.checkpoint.config) == ("weights", "lowrank")
    for fold in ("weights", "lowrank"):
        assert fold_modes(bundle_of(case, fold=fold).manifest.config) == (fold,)


def test_constants_are_those_of_grouped_heads_too():
    """A LLaMA with half the heads of keys and values, beside the reference, in which the modality token is one of a prompt's."""
    case = case_of("lavin-das", "mid")
    half = case.checkpoint.config.dim // 2
    tensors = {
        name: tensor.map(lambda w: w[:half], (half, tensor.shape[1]))
        if name.endswith(("n.k.weight", "n.v.weight"))
        else tensor
        for name, tensor in case.checkpoint.tensors.items()
    }
    config = case.checkpoint.config.model_copy(update={"kv_heads": case.checkpoint.config.kv_heads // 2})
    pruned = prune(replace(case.checkpoint, config=config, tensors=tensors), case.plan)
    parameters = network_parameters(pruned, case.plan, PRECISIONS["fp32"], Limits())
    reference = Reference(config, case.plan, Limits(), {name: tensor.read for name, tensor in parameters.items()})
    table = router_table(pruned, case.plan)
    for which, run in enumerate(("txt1", "img1")):
        (got,) = reference.read([case.prompts(run).prompts], [torch.empty(0, 1, dtype=torch.int64)])
        assert max_error(table[which], got.state["router"][0].numpy()) < STATE


def test_a_list_that_the_keys_contradict_is_not_followed_and_it_is_said(tmp_path):
    case = case_of("lavin-das", "mid")
    folder = shutil.copytree(case.folder, tmp_path / "das")
    saved = torch.load(folder / "checkpoint-19.pth", weights_only=False)
    saved["args"].skip_list = "[0, 5]"
    torch.save(saved, folder / "checkpoint-19.pth")
    checkpoint = load_checkpoint(Sources(folder))
    said = "args.skip_list is '[0, 5]', but the keys of checkpoint-19.pth say 1,3: they are followed"
    assert said in checkpoint.notes and checkpoint.evidence.text == "1,3"
    assert not [note for note in case.checkpoint.notes if "skip_list" in note]
