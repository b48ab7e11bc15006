"""Graphs of opset 21: the same functions, in older operators."""

import shutil
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from conftest import by_itself, golden_case, max_error
from test_golden import check_against_golden

from eas_export import UserError
from eas_export.backends.opening import open_runtime
from eas_export.build import artifacts as assembly
from eas_export.core.errors import InternalError
from eas_export.core.options import BuildOptions
from eas_export.core.precision import DTYPES
from eas_export.core.progress import Progress
from eas_export.export.lowerings import LIFT
from eas_export.export.lowerings.drop_no_ops import DropNoOps
from eas_export.export.lowerings.expand_functions import ExpandFunctions
from eas_export.export.lowerings.scatter_places import ScatterPlaces
from eas_export.export.lowerings.set_opset import SetOpset
from eas_export.export.lowerings.share_constants import ShareConstants
from eas_export.export.lowerings.share_shapes import ShareShapes
from eas_export.generation.generate import generate
from eas_export.networks import ops
from eas_export.pipeline import build, verify

FIRST, HALF = by_itself(golden_case("first")), golden_case("half_13B")


class Stages(Progress):
    def __init__(self):
        self.titles = []

    @contextmanager
    def stage(self, title, total=None):
        self.titles.append(title)
        with super().stage(title, total) as done:
            yield done


@pytest.fixture(scope="module")
def changed(bundle_of, tmp_path_factory):
    """A bundle of opset 24, built again with --force and opset 21 alone changed; and what that did."""
    out, stages = tmp_path_factory.mktemp("opset") / "o", Stages()
    shutil.copytree(bundle_of(FIRST).path, out)
    return build(FIRST.folder, out, opset=21, force=True, verify=False, progress=stages).bundle, stages.titles


@pytest.fixture(scope="module")
def folded(changed):
    return changed[0]


@pytest.fixture(scope="module")
def lowrank(bundle_of):
    return bundle_of(HALF, fold="lowrank", opset=21)


@pytest.fixture(scope="module")
def half_precision(bundle_of):
    return bundle_of(FIRST, "fp16", "lowrank", 21)


@pytest.fixture(params=["folded", "lowrank", "half_precision"])
def bundle(request):
    return request.getfixturevalue(request.param)


def test_only_the_graphs_are_made_again(changed, bundle_of):
    bundle, titles = changed
    made = [title for title in titles if title.startswith(("writing", "exporting", "comparing"))]
    assert made == [f"exporting {name}" for name in bundle.manifest.graphs]
    assert bundle.damaged_files() == [] and bundle.manifest.options.opset == 21
    before = bundle_of(FIRST).manifest
    assert before.graphs == bundle.manifest.graphs and before.key != bundle.manifest.key
    weights = "weights.safetensors"
    assert before.files[weights] == bundle.manifest.files[weights]
    assert build(FIRST.folder, bundle.path, opset=21, verify=False).reused
    with pytest.raises(UserError, match="opset is 24, the bundle's 21"):
        build(FIRST.folder, bundle.path, verify=False)


def test_graphs_are_checked_standard_onnx_of_opset_21(bundle):
    for name, spec in bundle.manifest.graphs.items():
        path = bundle.graph_file(name)
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
        assert model.ir_version == 10 and not model.functions  # 10 is what came with opset 21
        for node in model.graph.node:
            assert node.domain == "" and onnx.defs.has(node.op_type, 21), node.op_type
        graph = ir.load(path).graph
        for values, tensors in ((graph.inputs, spec.inputs), (graph.outputs, spec.outputs)):
            assert [v.name for v in values] == [t.name for t in tensors]
            for value, tensor in zip(values, tensors, strict=True):
                assert value.dtype == ir.DataType(DTYPES[tensor.dtype].onnx)
                assert [d if isinstance(d, int) else d.value for d in value.shape] == list(tensor.shape)


def test_every_weight_stays_in_the_store(bundle):
    used = set()
    for name in bundle.manifest.graphs:
        for initializer, value in ir.load(bundle.graph_file(name)).graph.initializers.items():
            if isinstance(value.const_value, ir.ExternalTensor):
                entry = bundle.store.entries[initializer]
                assert (value.const_value.offset, value.const_value.length) == (entry.offset, entry.nbytes)
                used.add(initializer)
            else:
                assert value.const_value.nbytes <= 4 * bundle.manifest.config.dim
    assert used == set(bundle.store.entries)


def test_a_step_reads_the_caches_in_products_alone(bundle):
    """Function bodies written for every case would widen, reshape and multiply the whole cache. And what does not depend on the layer is
    made once."""
    graph = ir.load(bundle.graph_file("decode")).graph
    scatters = [node for node in graph if node.op_type == "ScatterND"]
    assert len(scatters) == 2 * len(bundle.manifest.plan.kept)
    assert len({id(node.inputs[1]) for node in scatters}) == 1
    for node in scatters:
        readers = {use.node.op_type for use in node.outputs[0].uses()} - {"Shape"}
        assert readers == ({"Transpose"} if node.outputs[0].name.endswith("key") else {"MatMul"})
    ranges = 1 if bundle.manifest.fold == "weights" else 2  # the slots, and the rows where there are several
    counts = {kind: sum(node.op_type == kind for node in graph) for kind in ("Range", "Shape", "Less")}
    assert counts == {"Range": ranges, "Shape": ranges, "Less": 1}
    constant = {
        name for name, value in graph.initializers.items() if not isinstance(value.const_value, ir.ExternalTensor)
    }
    assert not [node for node in graph if {value.name for value in node.inputs if value is not None} <= constant]


@pytest.mark.parametrize(
    "name, case, run",
    [("folded", FIRST, "img1"), ("folded", FIRST, "txt1"), *(("lowrank", HALF, run) for run in ("img1", "txt1", "b3"))],
)
def test_equal_to_the_published_code(request, name, case, run):
    inputs = case.prompts(run)
    runtime = open_runtime(request.getfixturevalue(name), "onnxruntime")
    check_against_golden(case, run, generate(runtime, inputs.prompts, forced=inputs.forced_tokens))


def test_fp16_error_is_at_most_twice_pytorchs_own(half_precision, folded):
    inputs = FIRST.prompts("img1")

    def logits(bundle, backend: str) -> torch.Tensor:
        return generate(open_runtime(bundle, backend), inputs.prompts, forced=inputs.forced_tokens).logits

    exact = logits(folded, "pytorch")
    own = max_error(logits(half_precision, "pytorch"), exact)
    assert 0 < max_error(logits(half_precision, "onnxruntime"), exact) <= 2 * own


def test_softmax_and_norms_are_in_float32(half_precision):
    for name in ("vision", "prefill", "decode"):
        graph = ir.load(half_precision.graph_file(name)).graph
        softmaxes = [node for node in graph if node.op_type == "Softmax"]
        assert softmaxes and all(node.inputs[0].dtype == ir.DataType.FLOAT for node in softmaxes)
        assert all(
            node.inputs[0].dtype == ir.DataType.FLOAT for node in graph if node.op_type in ("ReduceMean", "Sqrt")
        )


def test_fp16_verifies_block_by_block(half_precision):
    assert verify(half_precision, FIRST.folder).verdict == "same as the checkpoint"


def test_the_command_line_takes_it(command, tmp_path):
    build = ("build", "--ckpt", FIRST.folder, "--out", tmp_path / "o", "--dry-run", "--json")
    assert '"opset": 21' in command(*build, "--opset", "21")[1]
    assert '"opset": 24' in command(*build)[1]
    assert command(*build, "--opset", "22")[0] == 2


def test_engines_are_not_built_from_it(monkeypatch):
    class Compiling:
        class compiler:
            target = staticmethod(lambda options: "target")

    monkeypatch.setattr(assembly, "get_backend", lambda name: Compiling)
    assert assembly.engine_targets(BuildOptions()) == ("target",)
    with pytest.raises(UserError, match="--opset"):
        assembly.engine_targets(BuildOptions(opset=21))


# The passes, each on its own


def model_of(text: str, opset: int = 24) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')


def run(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


SCATTERS = """g (float[{B}, 3, T, 4] a, float[{B}, 3, T, 4] b, float[{B}, 3, {L}, 4] x, float[{B}, 3, {L}, 4] y, int64[{B}] slots)
    => (float[{B}, 3, T, 4] a2, float[{B}, 3, T, 4] b2) {{
    a2 = TensorScatter <axis = -2, mode = "linear"> (a, x, slots)
    b2 = TensorScatter (b, y, slots)
}}"""


@pytest.mark.parametrize("batch, rows", [("B", "L"), ("B", 1), (1, 1), (1, "L")])
def test_scattered_rows_are_where_tensor_scatter_puts_them(batch, rows):
    """In memory of their own, and in place."""
    b, length, slots = (3 if batch == "B" else 1), (5 if rows == "L" else 1), np.array([7, 0, 4])
    draw = np.random.default_rng(0)
    caches = {name: draw.normal(size=(b, 3, 12, 4)).astype(np.float32) for name in ("a", "b")}
    updates = {name: draw.normal(size=(b, 3, length, 4)).astype(np.float32) for name in ("x", "y")}
    slots = slots[:b]
    model = model_of(SCATTERS.format(B=batch, L=rows))
    theirs = run(model, **caches, **updates, slots=slots)
    for make in (ScatterPlaces, lambda: SetOpset(21)):
        make()(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("ScatterND") == 2 and kinds.count("Range") == (batch == "B") + (
        rows == "L"
    )  # made once for both
    ours = run(model, **caches, **updates, slots=slots)
    for got, want, cache, update in zip(ours, theirs, "ab", "xy"):
        exact = ops.scatter_cache(
            *(torch.from_numpy(part) for part in (caches[cache].copy(), updates[update], slots))
        ).numpy()
        assert np.array_equal(got, exact) and np.array_equal(want, exact)
        assert not np.array_equal(got, caches[cache])

    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in (caches | updates | {"slots": slots}).items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in (("a2", caches["a"]), ("b2", caches["b"])):
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)
    assert np.array_equal(caches["a"], theirs[0]) and np.array_equal(caches["b"], theirs[1])


def test_circular_caches_are_left_alone():
    model = model_of(
        """g (float[2, 3, T, 4] a, float[2, 3, 1, 4] x, int64[2] slots) => (float[2, 3, T, 4] b) {
            b = TensorScatter <axis = -2, mode = "circular"> (a, x, slots)
        }"""
    )
    assert not ScatterPlaces()(model).modified
    with pytest.raises(InternalError, match="opset 21 has no TensorScatter"):
        SetOpset(21)(model)


def test_an_attribute_that_is_newer_is_refused():
    model = model_of('g (float[2] a) => (float8e8m0[2] b) { b = Cast <to = 24, round_mode = "up"> (a) }')
    with pytest.raises(InternalError, match="Cast of opset 21 has no attribute round_mode"):
        SetOpset(21)(model)
    assert model.opset_imports[""] == 24


def test_functions_are_expanded_with_their_attributes():
    text = """g (float[2, 6] x, float[6] w) => (float[2, 6] a, float[2, 6] b, float[2, 6] c) {
        a = Swish <alpha = 1.702> (x)
        b = Swish (x)
        c = RMSNormalization <epsilon = 0.1> (x, w)
    }"""
    draw = np.random.default_rng(0)
    inputs = {"x": draw.normal(size=(2, 6)).astype(np.float32), "w": draw.normal(size=6).astype(np.float32)}
    model = model_of(text)
    wanted = run(model, **inputs)
    ExpandFunctions(21)(model)
    SetOpset(21)(model)
    assert not model.functions and not {"Swish", "RMSNormalization"} & {node.op_type for node in model.graph}
    for got, want in zip(run(model, **inputs), wanted):
        assert max_error(got, want) < 1e-6
    assert max_error(wanted[0], wanted[1]) > 1e-2


def test_no_ops_are_dropped_and_nothing_else():
    model = model_of(
        """g (float[B, 6] x, float one, float two, float[1, 1, 1] wide, int64[1] zero, int64[1] six, int64[1] back, int64[1] last,
              int64[1] first, int64[1] axis, int64[2] parts, int64[1] two1)
            => (float[B, 6] a, float[B, 6] b, float[1, B, 6] c, float[B, 6] d, float[B, 6] e, float[6, B] f, float[B, 6] h, float[B, 3] k, float[B, 3] m) {
            a1 = Mul (one, x)
            a = Neg (a1)
            b1 = Mul (x, two)
            b = Neg (b1)
            c1 = Mul (x, wide)
            c = Neg (c1)
            d1 = Slice (x, zero, six, axis)
            d = Neg (d1)
            e1 = Slice (x, last, first, axis, back)
            e = Neg (e1)
            rows = Shape <start = 0, end = 1> (x)
            turned = Concat <axis = 0> (six, rows)
            f1 = Reshape (x, turned)
            f = Neg (f1)
            same = Concat <axis = 0> (rows, six)
            apart = Unsqueeze (x, two1)
            h1 = Reshape (apart, same)
            h = Neg (h1)
            k1, k2 = Split <axis = 1> (x, parts)
            k = Neg (k1)
            m1, m2 = Split <axis = 1> (x, parts)
            m = Concat <axis = 1> (m1, m2)
        }"""
    )
    numbers = {
        "one": 1.0,
        "two": 2.0,
        "wide": [[[1.0]]],
        "zero": [0],
        "six": [6],
        "back": [-1],
        "last": [5],
        "first": [-7],
    }
    numbers |= {"axis": [1], "parts": [3, 3], "two1": [2]}
    for name, number in numbers.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        value.const_value = ir.tensor(number, value.dtype)
        model.graph.inputs.remove(value)
        model.graph.initializers[name] = value
    values = {value.name: value for node in model.graph for value in node.outputs}
    shapes = {"d1": ["B", 6], "e1": ["B", 6], "apart": ["B", 6, 1], "k1": ["B", 3], "k2": ["B", 3]}
    for name, shape in shapes.items():
        values[name].shape = ir.Shape(shape)
    assert DropNoOps()(model).modified
    read = {name: values[name].producer().inputs[0].name for name in "abcdefhk"}
    assert read == {"a": "x", "b": "b1", "c": "c1", "d": "x", "e": "e1", "f": "f1", "h": "x", "k": "k1"}
    assert list(values["f1"].shape) == [6, "B"]  # found out from its target
    for name in "km":
        values[f"{name}1"].shape, values[f"{name}2"].shape = ir.Shape(["B", 6]), ir.Shape(["B", 0])
    DropNoOps()(model)
    assert values["k"].producer().inputs[0].name == "x"
    assert [value.name for value in values["m"].producer().inputs] == ["m1", "m2"]  # nothing, but it is read


def test_equal_sizes_and_constants_are_shared():
    model = model_of(
        """g (float[B, 6] x, float[B, T] y, float[B, 6] z)
            => (int64[2] a, int64[2] b, int64[2] c, int64[1] d, int64[1] e, int64[1] f, int64[1] g) {
            u = Abs (z)
            one = Constant <value = int64[1] {1}> ()
            uno = Constant <value = int64[1] {1}> ()
            two = Constant <value = int64[1] {2}> ()
            s1 = Shape (x)
            s2 = Shape (y)
            s3 = Shape (z)
            s4 = Shape <start = 0, end = 1> (y)
            s5 = Shape <start = -2, end = -1> (x)
            s6 = Shape <start = 0, end = 1> (u)
            a = Add (s1, one)
            b = Add (s2, uno)
            c = Add (s3, two)
            d = Add (s4, one)
            e = Add (s5, one)
            f = Add (s6, one)
            v = Neg (z)
            s7 = Shape <start = 0, end = 1> (v)
            g = Add (s7, one)
        }"""
    )
    LIFT()(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    values["u"].shape = values["v"].shape = ir.Shape([None, 6])
    assert ShareShapes()(model).modified and ShareConstants()(model).modified
    read = {name: [value.name for value in values[name].producer().inputs] for name in "abcdefg"}
    assert [read[name][0] for name in "abcdefg"] == ["s1", "s2", "s1", "s4", "s4", "s6", "s7"]
    assert [read[name][1] for name in "abc"] == ["one", "one", "two"]
