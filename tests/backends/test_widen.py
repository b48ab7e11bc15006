"""bfloat16 bundles on a processor that has no kernels for them."""

import onnx
import torch
from conftest import golden_case, max_error

from eas_export.backends.onnxruntime.widen import widen_model
from eas_export.backends.opening import open_low_memory_runtime, open_runtime
from eas_export.generation.generate import generate
from eas_export.verify.compare import Request, compare_bundle

CASE = golden_case("half_13B")
TABLES = {"prefill": ["embed.weight", "modality.weight"], "decode": ["embed.weight"]}  # of which only rows are widened


def test_weights_are_bfloat16_as_torch_rounds_them(bundle_of):
    narrow, exact = bundle_of(CASE, "bf16").store, bundle_of(CASE).store
    checked = 0
    for name, entry in narrow.entries.items():
        want = exact.tensor(name)
        assert entry.dtype == ("float32" if ".router." in name or ".pool." in name else "bfloat16"), name
        assert narrow.tensor(name).equal(want.to(narrow.tensor(name).dtype)), name
        assert max_error(narrow.array(name).astype("float32"), narrow.tensor(name).float()) == 0
        checked += entry.dtype == "bfloat16"
    assert checked > 100


def test_the_ledger_proves_graph_and_weights_and_says_how(bundle_of):
    report = compare_bundle(bundle_of(CASE, "bf16"), Request(CASE.checkpoint, "x"))
    assert report.ok and "onnxruntime, bf16 computed in float32" in report.steps[-1].what
    assert "float32" not in compare_bundle(bundle_of(CASE), Request(CASE.checkpoint, "x")).steps[-1].what


def test_whole_sessions_and_parts_are_closer_than_pytorchs_own_bfloat16(bundle_of):
    bundle, inputs = bundle_of(CASE, "bf16"), CASE.prompts("img1")
    golden = CASE.golden["img1/v3/logits"]

    def error(runtime) -> float:
        return max_error(generate(runtime, inputs.prompts, forced=inputs.forced_tokens).logits, golden)

    own = error(open_runtime(bundle, "pytorch"))
    for opened in (open_runtime, open_low_memory_runtime):
        assert 1e-3 < error(opened(bundle, "onnxruntime")) <= own


def test_nothing_of_bfloat16_is_left_but_the_stored_weights(bundle_of):
    bundle = bundle_of(CASE, "bf16")
    narrow = onnx.TensorProto.BFLOAT16
    for name in bundle.manifest.graphs:
        model = onnx.load(bundle.graph_file(name), load_external_data=False)
        assert any(i.data_type == narrow for i in model.graph.initializer)
        graph = widen_model(model).graph
        stored = [i for i in graph.initializer if i.data_type == narrow]
        assert all(i.external_data for i in stored)
        reads = [(node.op_type, i) for node in graph.node for i in node.input if i in {s.name for s in stored}]
        assert len(reads) == len(stored) and {kind for kind, _ in reads} <= {"Cast", "Gather"}
        assert [i for kind, i in reads if kind == "Gather"] == TABLES.get(name, [])
        values = [v for v in (*graph.input, *graph.output) if v.type.tensor_type.elem_type == narrow]
        assert not values and not any(a.i == narrow for n in graph.node for a in n.attribute if a.name == "to")


def test_float32_and_float16_graphs_stay_as_they_are(bundle_of):
    for precision in ("fp32", "fp16"):
        model = onnx.load(bundle_of(CASE, precision).graph_file("decode"), load_external_data=False)
        before = model.SerializeToString(deterministic=True)
        assert widen_model(model).SerializeToString(deterministic=True) == before


def test_bfloat16_sessions_take_and_give_float32(bundle_of):
    runtime = open_runtime(bundle_of(CASE, "bf16"), "onnxruntime")
    caches = [t for t in runtime.sessions["decode"].spec.inputs if t.name.startswith("past_")]
    assert {t.dtype for t in caches} == {"float32"}
    assert runtime.run("vision", {"pixel_values": torch.zeros(1, *runtime.sessions["vision"].spec.inputs[0].shape[1:])})
