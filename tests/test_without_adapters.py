"""`--adapters drop`: the floor that time is measured against is the same model, and nothing of an adapter is left in its bundle."""

import json

import numpy as np
import onnx
import pytest
from conftest import (
    FP32,
    RUN_HERE,
    GoldenCase,
    LlavaCase,
    copy_of,
    golden_case,
    llava_golden_case,
    made_once,
    max_error,
)
from reference.lavin import LavinReference
from reference.llava import LlavaReference

from eas_export.backends.opening import open_runtime
from eas_export.backends.pytorch import open_network
from eas_export.backends.tensorrt import engine_graph
from eas_export.bundle.bundle import Bundle, open_bundle
from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.generation.generate import generate
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.pipeline import build, verify

LAVIN, LLAVA = golden_case("half_13B"), llava_golden_case("a")
CASES = pytest.mark.parametrize("case", [LAVIN, LLAVA], ids=lambda case: case.name)
OF_ADAPTERS = ("adapter", "router", "pool", "folded")


@pytest.fixture(scope="module")
def dropped(bundle_of, tmp_path_factory):
    """dropped(case) -> Bundle without adapters, built on first use: LaVIN's by a recipe, LLaVA's over the store of a bundle with them."""

    def get(case: GoldenCase) -> Bundle:
        with made_once(tmp_path_factory, "dropped", case.name) as out:
            recipe = out.with_suffix(".yaml")
            recipe.write_text("adapters: drop\n")
            how = {"base": bundle_of(case).path, "adapters": "drop"} if case is LLAVA else {"recipe": recipe}
            return open_bundle(out) if out.exists() else build(case.folder, out, **how, **case.limits).bundle

    return get


def of_reference(case: GoldenCase, run: str) -> np.ndarray:
    """The naive transcriptions' logits without adapters, row by row: [steps + 1, B, vocab]"""
    arrays, image = case.arrays(run), {}
    if "pixel_values" in arrays:
        image = dict(zip(arrays["image_row"].tolist(), arrays["pixel_values"]))
    rows = []
    for row, (ids, length) in enumerate(zip(arrays["input_ids"], arrays["prompt_lengths"])):
        prompt, forced = ids[:length].tolist(), arrays["forced_tokens"][:, row].tolist()
        if isinstance(case, LlavaCase):
            got = LlavaReference(case.folder, scale=0.0).run(prompt, [image[row]] if row in image else [], forced)
        else:
            got = LavinReference(case.folder, scale=0.0).run(prompt, image.get(row), forced)
        rows.append(got["logits"])
    return np.stack(rows, 1)


@CASES
def test_nothing_of_an_adapter_is_left(dropped, bundle_of, case):
    bundle = dropped(case)
    m, plain = bundle.manifest, bundle_of(case)
    assert list(m.graphs) == ["vision", "prefill", "decode"] and m.fold == "none"
    assert m.config.kept_adapter is m.config.skipped_adapter is m.config.vision.adapter is None
    assert m.plan == case.plan and m.options.adapters == "drop"
    assert [note for note in m.notes if "its answers mean nothing" in note]
    for name in m.graphs:
        graph = onnx.load(bundle.graph_file(name), load_external_data=False).graph
        names = [v.name for v in (*graph.input, *graph.output, *graph.initializer)] + [n.name for n in graph.node]
        assert len(graph.node) > 9 and not [name for name in names if any(part in name for part in OF_ADAPTERS)]
    if case is LAVIN:
        assert not [name for name in bundle.store.entries if any(part in name for part in OF_ADAPTERS)]
        theirs = [name for name in plain.store.entries if any(part in name for part in OF_ADAPTERS)]
        assert any(name.startswith("vision.") for name in theirs)
        assert {*bundle.store.entries, *theirs, "modality.weight"} == {
            *plain.store.entries
        }  # a token that changes nothing
    else:  # nothing is its own
        assert m.base.sha256 == plain.manifest.files["weights.safetensors"].sha256
        assert sum(file.bytes for name, file in m.files.items() if name.endswith("safetensors")) < 1.01 * m.base.bytes


@CASES
@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_it_is_the_model_with_its_adapters_zeroed(dropped, case, run):
    bundle, want, inputs = dropped(case), of_reference(case, run), case.prompts(run)
    assert max_error(want, case.golden[f"{run}/v3/logits"]) > 0.1  # the adapters did something
    for backend in RUN_HERE:
        got = generate(open_runtime(bundle, backend), inputs.prompts, forced=inputs.forced_tokens)
        assert got.logits.shape == want.shape and not got.state and not got.folded
        assert max_error(got.logits, want) < FP32


@CASES
def test_it_is_the_model_at_scale_0(dropped, case):
    checkpoint, inputs = prune(load_checkpoint(Sources(case.folder, adapter_scale=0.0)), case.plan), case.prompts("b3")
    fp32, limits = PRECISIONS["fp32"], Limits(max_batch=8)
    readers = {n: t.read for n, t in network_parameters(checkpoint, case.plan, fp32, limits).items()}
    runtime = open_network(checkpoint.config, case.plan, fp32, limits, "lowrank", readers)
    without, scaled = (
        generate(each, inputs.prompts, forced=inputs.forced_tokens).logits
        for each in (open_runtime(dropped(case), "pytorch"), runtime)
    )
    assert max_error(without, scaled) < 1e-5


@CASES
def test_it_verifies_and_faults_are_found(dropped, tmp_path, case):
    report = verify(copy_of(dropped(case), tmp_path / "own"), case.folder, negative_controls=True)
    assert report.exit_code == 0 and report.verdict == "same as the checkpoint", report.first_divergence
    assert [step.name for step in report.steps] == ["pytorch, the bundle's weights", "onnxruntime"]
    assert {control.name: control.why_not for control in report.controls} == {
        "published bias": "the bundle has no fold graph",
        "router weights off by 1 %": "the graphs have no routers",
        "transposed weight": "",
        "weights of the other modality": "no weights depend on a prompt's modality alone",
        "position off by one": "",
        "stale cache slot": "",
    }
    assert all(
        control.ok and control.found.layer == control.layer for c in report.controls if not (control := c).why_not
    )
    assert report.shortcuts == ()


def test_as_a_user_sees_it(dropped, tmp_path, command):
    bundle = dropped(LAVIN)
    code, text, err = command("inspect", bundle.path)
    assert code == 0, err
    assert "none: a model without adapters" in text and "scale, temperature" not in text
    assert "fold none" in text and "its answers mean nothing" in text
    np.savez(tmp_path / "x.npz", **LAVIN.arrays("b3"))
    code, text, err = command("run", bundle.path, "--inputs", tmp_path / "x.npz", "--json")
    assert code == 0, err
    assert np.shape(json.loads(text)["tokens"]) == (3, 9)
    said = of_reference(LAVIN, "b3").argmax(-1).T
    assert np.array_equal(json.loads(text)["tokens"], said)


def test_a_fold_of_nothing_is_refused(tmp_path, refused):
    build_ = ("build", "--ckpt", LAVIN.folder, "--out", tmp_path / "o")
    line = refused(*build_, "--adapters", "drop", "--fold", "weights")
    assert "a model without adapters has no fold mode weights (--fold): leave --fold out, or choose none" in line
    assert "choose weights or lowrank" in refused(*build_, "--fold", "none")


def test_what_was_never_trained_is_not_said_of_adapters_that_are_gone(tmp_path, command):
    build_ = ("build", "--ckpt", LAVIN.folder, "--out", tmp_path / "o", "--skip", "none", "--dry-run", "--json")
    with_them, without = (json.loads(command(*build_, *more)[1])["notes"] for more in ((), ("--adapters", "drop")))
    assert "are untrained" in " ".join(with_them) and "are untrained" not in " ".join(without)
    assert with_them[0] in without and "its answers mean nothing" in " ".join(without)


def test_engines_are_built(dropped, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_graph, "MIN_BOUND_BYTES", 256)
    copy = copy_of(dropped(LAVIN), tmp_path / "o")
    options = dict(adapters="drop", backend="tensorrt-rtx", compute_capability="8.6")
    bundle = build(LAVIN.folder, copy.path, force=True, verify=False, **options).bundle
    assert bundle.manifest.engines("tensorrt-rtx").keys() == {"vision", "prefill", "decode"}
