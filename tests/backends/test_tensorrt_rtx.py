"""Engines, built for real by TensorRT-RTX, on a machine that needs no GPU."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import tensorrt_rtx as trt
import torch
from conftest import by_itself, golden_case
from hf_models import ALTERNATING, MODELS, make_folder
from synthetic_llava import LlavaShape, write_llava

from eas_export.backends import get_backend
from eas_export.backends.checking import check as check_graphs
from eas_export.backends.tensorrt import build as engine_build
from eas_export.backends.tensorrt import engine_graph, flavor
from eas_export.backends.tensorrt.build import profile_shapes, run_worker
from eas_export.backends.tensorrt.engine_graph import rewrite
from eas_export.backends.tensorrt.tensorrt_rtx import FLAVOR, read_capabilities
from eas_export.build.recipe import resolve
from eas_export.bundle.bundle import Bundle, open_bundle
from eas_export.bundle.manifest import Target, engine_file
from eas_export.core.errors import UserError
from eas_export.core.options import BuildOptions
from eas_export.core.progress import Progress
from eas_export.pipeline import build
from eas_export.system.hashing import sha256_of
from eas_export.system.packages import install_command

CASE = golden_case("half_13B")
ALL = ("8.0", "8.6", "8.9", "12.0")


def test_every_graph_has_an_engine_and_a_record(lavin_case, engines_of):
    bundle = engines_of(lavin_case)
    m = bundle.manifest
    assert set(m.engines("tensorrt-rtx")) == set(m.graphs) and not m.engines("tensorrt")
    for graph, record in m.engines("tensorrt-rtx").items():
        target = record.target
        assert (target.version, target.compute_capabilities, target.weights) == (trt.__version__, ALL, "bound")
        file = m.files[engine_file(graph, "tensorrt-rtx")]
        path = bundle.engine_file(graph, "tensorrt-rtx")
        assert (file.sha256, file.bytes) == (sha256_of(path), path.stat().st_size) and file.bytes > 100_000
        assert record.seconds > 0
    attention = {graph: record.attention for graph, record in m.engines("tensorrt-rtx").items()}
    assert attention.pop("vision") != "none"  # towers of one head, as the goldens' are, have no kernel at every size
    assert attention == {
        "prefill": "fused" if m.plan.kept else "none",
        "fold": "none",
        "decode": "fused" if m.plan.kept else "none",
    }
    assert not [path.name for path in bundle.path.iterdir() if "rewritten" in path.name]


def test_attention_and_caches_are_layers_of_kept_blocks_alone(lavin_case, engines_of):
    """One attention and two updates in place per kept layer, and none for a skipped one; every attention over a cache is told how far."""
    bundle = engines_of(lavin_case)
    kept = len(bundle.manifest.plan.kept)
    checks = check_graphs(bundle, "tensorrt-rtx", Progress())
    for graph in ("prefill", "decode"):
        kinds = Counter(layer.kind for layer in checks[graph].layers)
        assert kinds["ATTENTION_INPUT"] == kinds["ATTENTION_OUTPUT"] == kept
        assert kinds["KV_CACHE_UPDATE"] == 2 * kept
    masked = [layer.mask for layer in checks["decode"].layers if layer.kind == "ATTENTION_INPUT"]
    assert masked == [True] * kept
    assert [layer.mask for layer in checks["prefill"].layers if layer.kind == "ATTENTION_INPUT"] == [False] * kept
    assert not any(check.lost for check in checks.values())


@pytest.mark.parametrize("precision, prefill", [("bf16", "fused"), ("fp32", "decomposed")])
def test_other_precisions(engines_of, precision, prefill):
    records = engines_of(CASE, precision).manifest.engines("tensorrt-rtx")
    assert records["prefill"].attention == prefill and records["decode"].attention == "fused"


def test_lowrank_engines(engines_of):
    bundle = engines_of(CASE, fold="lowrank")
    assert set(bundle.manifest.engines("tensorrt-rtx")) == {"vision", "prefill", "decode"}


def test_a_tied_head_reads_the_bound_embedding(monkeypatch, tmp_path):
    monkeypatch.setattr(engine_graph, "MIN_BOUND_BYTES", 256)
    folder = write_llava(tmp_path / "ckpt", LlavaShape(layers=2, skip=(1,), tied=True))
    options = dict(backend="tensorrt-rtx", compute_capability="86", verify=False, max_prompt=64, max_tokens=96)
    bundle = build(folder, tmp_path / "out", **options).bundle
    assert set(bundle.manifest.engines("tensorrt-rtx")) == set(bundle.manifest.graphs)
    for graph in ("prefill", "decode"):
        network = parsed(bundle, graph, tmp_path)
        read = Counter(
            each.name for layer in network.layers for i in range(layer.num_inputs) if (each := layer.get_input(i))
        )
        assert read["embed.weight"] == 2 and not read["head.weight"]


def parsed(bundle: Bundle, graph: str, folder: Path, precision: str = "fp32") -> flavor.Network:
    import onnx_ir as ir

    path = folder / f"{graph}.onnx"
    ir.save(rewrite(bundle.graph_file(graph), bundle.manifest.graphs[graph], bundle.store, "bound"), path)
    return flavor.parse(trt, path)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_text_decoders_attend_in_one_layer(model_type, tmp_path):
    """Biases, windows and norms of queries and keys are fused; TensorRT's attention has no bound of its scores, which Gemma 2 has."""
    types = {"layer_types": ALTERNATING[:2]} if "layer_types" in MODELS[model_type] else {"max_window_layers": 1}
    folder = make_folder(tmp_path / "model", model_type, num_hidden_layers=2, **types)
    options = dict(backend="tensorrt-rtx", compute_capability="86", precision="fp16", verify=False, max_prompt=64)
    bundle = build(folder, tmp_path / "bundle", max_tokens=128, **options).bundle
    engines = bundle.manifest.engines("tensorrt-rtx")
    expected = "decomposed" if model_type == "gemma2" else "fused"
    assert {graph: record.attention for graph, record in engines.items()} == {"prefill": expected, "decode": expected}


def test_float32_products_are_float32(bundle_of, tmp_path):
    """TF32 is TensorRT's default."""
    bundle = bundle_of(CASE)
    network = parsed(bundle, "decode", tmp_path)
    assert network.builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)
    config = flavor.make_config(trt, network, profile_shapes(bundle.manifest.graphs["decode"]))
    FLAVOR.configure(trt, config, get_backend("tensorrt-rtx").compiler.target(BuildOptions(compute_capability="86")))
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM86


def test_keys_reach_attention_without_a_copy(bundle_of, tmp_path):
    """The parser multiplies q and k; what attention reads afterwards is the query as we scaled it and the cache itself."""
    network = parsed(bundle_of(CASE), "decode", tmp_path)
    made = {layer.get_output(i).name: layer for layer in network.layers for i in range(layer.num_outputs)}
    found = flavor.attentions(trt, network)
    for attention in found:
        assert attention.get_input(0).name.endswith("_scaled")
        assert made[attention.get_input(1).name].type == trt.LayerType.KV_CACHE_UPDATE
        assert made[attention.get_input(2).name].type == trt.LayerType.KV_CACHE_UPDATE
        assert attention.mask.dtype == trt.bool and tuple(attention.mask.shape) == (1, 1, 1, 256)
    assert len(found) == len(CASE.plan.kept)


def test_profiles_are_the_limits(bundle_of):
    m = bundle_of(CASE, fold="lowrank").manifest
    shapes = profile_shapes(m.graphs["decode"])
    heads, head_dim = m.config.heads, m.config.head_dim
    assert shapes["input_ids"] == ([1, 1], [8, 1], [8, 1])
    layer = m.plan.kept[0]
    cache = shapes[f"past_key_values.{layer}.key"]
    assert cache == ([1, heads, 256, head_dim], [8, heads, 256, head_dim], [8, heads, 256, head_dim])
    assert profile_shapes(m.graphs["prefill"])["input_ids"] == ([1, 1], [8, 64], [8, 128])


def built(err: str) -> list[str]:
    done = [line.split(": done")[0] for line in err.splitlines() if ": done" in line]
    return [title for title in done if title.startswith(("exporting", "building", "writing"))]


def test_an_engine_is_built_again_exactly_when_its_key_changes(bundle_of, command, refused, tmp_path):
    out = Path(shutil.copytree(bundle_of(by_itself(CASE), "fp16").path, tmp_path / "o"))
    args = (
        "build",
        "--ckpt",
        CASE.folder,
        "--out",
        out,
        "--precision",
        "fp16",
        "--no-verify",
        "--backend",
        "tensorrt-rtx",
    )
    graphs = [f"building {graph} for TensorRT-RTX" for graph in ("vision", "prefill", "fold", "decode")]
    assert "pass --force" in refused(*args)
    code, _, err = command(*args, "--force", "--compute-capability", "86")
    assert code == 0 and built(err) == graphs
    code, text, err = command(*args, "--compute-capability", "8.6", "--json")
    assert code == 0 and json.loads(text)["reused"] and not built(err)
    code, text, err = command(*args, "--force", "--compute-capability", "sm_86", "--backend", "onnxruntime")
    assert code == 0 and not built(err) and "fused" in text  # the same engines by content

    # one that is damaged, and only that
    path = open_bundle(out).engine_file("fold", "tensorrt-rtx")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"{path.name} is damaged" in refused("inspect", out, "--check")
    code, _, err = command(*args, "--force", "--compute-capability", "86")
    assert code == 0 and built(err) == ["building fold for TensorRT-RTX"]

    # another limit: the graph of that limit
    code, _, err = command(*args, "--force", "--compute-capability", "86", "--max-prompt", "512")
    assert code == 0 and built(err) == ["exporting prefill", "building prefill for TensorRT-RTX"]

    # other GPUs: all; the record says which
    code, text, err = command(*args, "--force", "--compute-capability", "120,8.9", "--max-prompt", "512", "--json")
    done = [json.loads(line) for line in err.splitlines()]
    assert sum(event["event"] == "done" and event["stage"].startswith("building") for event in done) == 4
    engines = json.loads(text)["engines"].values()
    assert all(e["engine"]["target"]["compute_capabilities"] == ["8.9", "12.0"] for e in engines)
    fractions = [event["done"] for event in done if event["stage"] == graphs[1] and event["event"] == "done"]
    assert fractions == [100]

    # without a backend there are no engines any more
    code, text, err = command(*args[:-2], "--force", "--max-prompt", "512", "--json")
    assert code == 0 and not json.loads(text)["engines"] and not list(out.glob("*.engine"))


def test_an_engines_key_has_all_that_makes_it(bundle_of, monkeypatch):
    """The graph, the limits, what it is built for, and the version of this package, which says how."""
    bundle, compiler = bundle_of(CASE, "fp16"), get_backend("tensorrt-rtx").compiler
    spec, target = bundle.manifest.graphs["fold"], compiler.target(BuildOptions(compute_capability="86"))

    def key(target: Target = target) -> str:
        return compiler.plan(bundle.graph_file("fold"), spec, bundle.store, target).key

    keys = [key(), key(target.model_copy(update={"gpu": "NVIDIA L4"}))]
    assert key() == keys[0]
    monkeypatch.setattr(engine_build, "__version__", "0.0.1")
    assert len({*keys, key()}) == 3


def test_embedded_weights_are_part_of_the_engine_and_of_its_key(bundle_of, monkeypatch, tmp_path):
    monkeypatch.setattr(engine_graph, "MIN_BOUND_BYTES", 256)
    bundle = bundle_of(CASE, "fp16")
    spec, path = bundle.manifest.graphs["prefill"], bundle.graph_file("prefill")
    compiler = get_backend("tensorrt-rtx").compiler
    plans, sizes = {}, {}
    for weights in ("bound", "embedded"):
        target = compiler.target(BuildOptions(compute_capability="86", engine_weights=weights))
        folder = Path(shutil.copytree(bundle.path, tmp_path / weights))
        plans[weights] = compiler.plan(folder / path.name, spec, bundle.store, target)
        made = plans[weights].build(folder / "x.engine", Progress())
        assert made.engine.target.weights == weights
        sizes[weights] = (folder / "x.engine").stat().st_size
    assert plans["bound"].reads == () and plans["embedded"].reads == ("weights.safetensors",)
    assert plans["bound"].key != plans["embedded"].key
    assert sizes["embedded"] > sizes["bound"]  # by weights that the bound one has as inputs


def test_what_a_builder_refuses_is_one_line(bundle_of, refused, tmp_path):
    args = ("build", "--ckpt", CASE.folder, "--out", tmp_path / "o", "--no-verify", "--precision", "fp16")
    for dtype, more in (("float32", ()), ("bfloat16", ("--precision", "bf16", "--adapters", "drop"))):
        turing = (*args, "--backend", "tensorrt-rtx", "--compute-capability", "75,86", *more)
        said = refused(*turing)
        assert f"no {dtype} matrix products for compute capability 7.5, which the model needs" in said
        assert "leave 7.5 out of --compute-capability" in said
        assert refused(*turing, "--dry-run") == said  # before any work
    assert not [*tmp_path.iterdir()]
    alone = refused(*args, "--backend", "tensorrt-rtx", "--compute-capability", "75")
    assert "(--compute-capability): name another GPU with --compute-capability" in alone
    unknown = refused(*args, "--backend", "tensorrt-rtx", "--compute-capability", "9.0,86")
    assert "does not support compute capability 9.0" in unknown and "80" in unknown and "120" in unknown
    assert "is not a list of compute capabilities" in refused(
        *args, "--backend", "tensorrt-rtx", "--compute-capability", "ampere"
    )
    assert "no engines are built" in refused(*args, "--compute-capability", "86")
    assert "no engines are built" in refused(*args, "--engine-weights", "embedded")
    assert install_command("gpu") in refused(*args, "--backend", "tensorrt")


def test_a_builder_without_memory_says_so(bundle_of, monkeypatch, tmp_path):
    """The process is given less memory than loading the libraries takes: while it builds, TensorRT-RTX sometimes crashes instead."""
    bundle = bundle_of(CASE, "fp16")
    spec = bundle.manifest.graphs["prefill"]
    compiler = get_backend("tensorrt-rtx").compiler
    target = compiler.target(BuildOptions(compute_capability="86"))
    folder = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    plan = compiler.plan(folder / "prefill.onnx", spec, bundle.store, target)
    monkeypatch.setattr(engine_build, "WORKER", ["prlimit", "--data=100000000", *engine_build.WORKER])
    with pytest.raises(UserError, match="ran out of memory") as refusal:
        plan.build(folder / "x.engine", Progress())
    assert "graph prefill" in str(refusal.value) and "--engine-weights bound" in refusal.value.fix


def test_a_killed_builder_says_so(monkeypatch):
    monkeypatch.setattr(engine_build, "WORKER", ["sh", "-c", "kill -9 $$"])
    with pytest.raises(UserError, match="ran out of memory"):
        run_worker(FLAVOR, "decode", {"backend": "tensorrt-rtx", "model": "x"}, lambda fraction: None)


def test_a_crashed_builder_says_so(monkeypatch):
    monkeypatch.setattr(engine_build, "WORKER", ["sh", "-c", "kill -SEGV $$"])
    with pytest.raises(UserError, match=r"the builder crashed \(ended by signal 11") as refusal:
        run_worker(FLAVOR, "decode", {"backend": "tensorrt-rtx", "model": "x"}, lambda fraction: None)
    assert "memory" not in str(refusal.value)


def test_an_engine_that_cannot_be_written_is_none(bundle_of, monkeypatch, tmp_path):
    """The builder takes no notice: a disk that is full is told all the same, and no broken engine is left for good."""
    bundle = bundle_of(CASE, "fp16")
    target = get_backend("tensorrt-rtx").compiler.target(BuildOptions(compute_capability="86"))
    plan = get_backend("tensorrt-rtx").compiler.plan(
        bundle.graph_file("fold"), bundle.manifest.graphs["fold"], bundle.store, target
    )
    monkeypatch.setattr(engine_build, "WORKER", ["prlimit", "--fsize=1000000", *engine_build.WORKER])
    with pytest.raises(UserError, match="the engine cannot be written"):
        plan.build(tmp_path / "x.engine", Progress())


def test_a_file_that_is_no_graph_is_refused_in_the_parsers_words(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    request = {"backend": "tensorrt-rtx", "model": str(tmp_path / "x.onnx")}
    with pytest.raises(UserError, match="TensorRT-RTX rejects the graph"):
        run_worker(FLAVOR, "decode", request, lambda fraction: None)


def test_engines_here_are_built_and_not_run(engines_of, command):
    bundle = engines_of(CASE)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, out, _ = command("verify", bundle.path, "--backend", "tensorrt-rtx")
    assert code == 3 and "PyTorch sees none here" in " ".join(out.split()) and "verdict: not run" in out


@pytest.mark.parametrize(
    "text, want",
    [
        ("86", ("8.6",)),
        ("120, 8.6", ("8.6", "12.0")),
        ("sm_89,SM80", ("8.0", "8.9")),
        (None, ALL),
        ("86,8.6", ("8.6",)),
    ],
)
def test_compute_capabilities_are_read_as_people_write_them(text, want):
    assert read_capabilities(text) == want


def test_a_recipe_names_backends_and_capabilities(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "backend: [tensorrt-rtx, onnxruntime]\ncompute_capability: [86, 12.0]\nengine_weights: embedded\n"
    )
    options = resolve(recipe, {}).options
    assert options.backend == ("tensorrt-rtx", "onnxruntime")
    assert read_capabilities(options.compute_capability) == ("8.6", "12.0")
