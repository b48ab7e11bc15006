"""verify as a user calls it: what has to run, what did not and why, the page, and labelled questions."""

import errno
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, copy_of, golden_case

from eas_export.backends import BACKENDS, get_backend
from eas_export.bundle.bundle import open_bundle, write_manifest
from eas_export.cli.schemas import schema_file
from eas_export.core.errors import OutOfSpace, UserError
from eas_export.core.precision import PRECISIONS
from eas_export.verify import decoder

CASE = golden_case("first")
LABELLED = Path(__file__).parents[2] / "tests" / "tiny" / "prompts" / "labelled.jsonl"


@pytest.fixture
def engines(engines_of, tmp_path):
    """A bundle with engines that were built by another TensorRT-RTX than is installed."""
    bundle = open_bundle(shutil.copytree(engines_of(CASE).path, tmp_path / "engines"))
    files = dict(bundle.manifest.files)
    for name, record in bundle.manifest.engine_files.items():
        target = record.engine.target.model_copy(update={"version": "0.9"})
        files[name] = record.model_copy(update={"engine": record.engine.model_copy(update={"target": target})})
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"files": files}))
    return open_bundle(bundle.path)


def test_engines_of_another_version_are_not_run_and_it_is_said(engines, command):
    verify = ("verify", engines.path, "--ckpt", CASE.folder)
    code, out, _ = command(*verify, "--json")
    said = json.loads(out)
    assert code == 0 and said["verdict"] == "same as the checkpoint"
    assert [step["name"] for step in said["steps"]][-2:] == ["onnxruntime", "tensorrt-rtx"]
    why = said["steps"][-1]["why_not"]
    assert "built by TensorRT-RTX 0.9" in why and "is installed" in why and "--force" in why
    assert said["steps"][-1]["cases"] == {}
    code, out, _ = command(*verify, "--require", "tensorrt-rtx")
    assert code == 3 and "required but not run: tensorrt-rtx: the engines were built by" in out
    code, out, _ = command(*verify, "--backend", "onnxruntime", "--json")
    assert code == 0 and [step["name"] for step in json.loads(out)["steps"]][-1] == "onnxruntime"
    assert json.loads(out)["required"] == ["onnxruntime"]


def test_a_bundle_without_the_engines_that_are_asked_for(bundle_of, command):
    for option in ("--backend", "--require"):
        code, out, _ = command("verify", bundle_of(CASE).path, option, "tensorrt-rtx", "--json")
        said = json.loads(out)
        assert code == 3 and said["required"] == ["tensorrt-rtx"]
        assert "build with --backend tensorrt-rtx" in said["steps"][-1]["why_not"]
        assert said["verdict"] == ("not run" if option == "--backend" else "self-consistent")


def test_more_steps_than_the_bundle_takes_are_refused(bundle_of, refused):
    """Of a prompt of one token, limits leave this many; by itself verify takes as many of its 8 as fit."""
    for steps in (-1, 256, 1_000_000_000):
        said = refused("verify", bundle_of(CASE).path, "--steps", steps)
        assert f"--steps is {steps}, out of range 0 to 255" in said and "give 0 to 255, or build with another" in said


def test_without_onnxruntime_nothing_passes_in_silence(bundle_of, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, _ = command("verify", bundle_of(CASE).path, "--ckpt", CASE.folder, "--json")
    said = json.loads(out)
    assert code == 3 and said["verdict"] == "not run"
    assert "pip install" in said["steps"][-1]["why_not"] and len(said["steps"][0]["cases"]) == 4


def test_wrong_use(bundle_of, tmp_path, refused):
    path = bundle_of(CASE).path
    assert "did you mean onnxruntime" in refused("verify", path, "--require", "onnxruntim")
    assert "pass --ckpt too" in refused("verify", path, "--negative-controls")
    assert "cannot be written" in refused("verify", path, "--html", tmp_path / "absent" / "x.html")
    assert "outside the bundle" in refused("verify", path, "--html", path / "decode.html")
    assert "ends in .html" in refused("verify", path, "--html", path / "decode.onnx")


def test_prompts_that_do_not_fit_are_wrong_use_even_where_nothing_runs(bundle_of, tmp_path, refused):
    np.savez(tmp_path / "x.npz", input_ids=np.ones((1, 128), int), forced_tokens=np.ones((129, 1), int))
    path = bundle_of(CASE).path
    said = refused("verify", path, "--inputs", tmp_path / "x.npz", "--backend", "tensorrt-rtx")
    assert "--max-tokens" in said


def test_pytorch_alone_proves_nothing_of_the_graphs(bundle_of, command):
    code, out, _ = command("verify", bundle_of(CASE).path, "--ckpt", CASE.folder, "--backend", "pytorch")
    assert code == 3 and "verdict: not run" in out


def test_a_damaged_header_differs(bundle_of, tmp_path, command):
    own = copy_of(bundle_of(CASE), tmp_path / "own")
    with open(own.path / "weights.safetensors", "r+b") as file:
        file.write(b"\xff")
    code, out, _ = command("verify", own.path, "--ckpt", CASE.folder)
    assert code == 1 and "damaged file weights.safetensors" in out


def test_errors_that_add_up_name_no_layer_and_say_so(bundle_of, command, monkeypatch):
    """fp16 held to a tolerance that no block alone uses up."""
    tight = replace(PRECISIONS["fp16"], tolerance=1e-3)
    monkeypatch.setitem(PRECISIONS, "fp16", tight)
    verify = ("verify", bundle_of(CASE, "fp16").path, "--ckpt", CASE.folder)
    code, out, _ = command(*verify, "--json")
    found = json.loads(out)["first_divergence"]
    assert code == 1 and found["graph"] is None and found["layer"] is None and found["error"] > 1e-3
    assert "no block alone is: errors have added up" in " ".join(command(*verify)[1].split())


def test_no_disk_for_a_debug_graph_is_wrong_use_of_the_machine(bundle_of, monkeypatch, refused):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said = refused("verify", bundle_of(CASE).path, "--ckpt", CASE.folder)
    assert "a debug graph cannot be written (No space left on device)" in said and "make room" in said


def test_no_room_is_no_difference(bundle_of, command, monkeypatch):
    def full(runtime, prompts, forced):
        raise OutOfSpace("cannot allocate 4.18 GB of scratch files", where="/disk", fix="free some space")

    monkeypatch.setattr(decoder, "generate", full)
    code, out, _ = command("verify", bundle_of(CASE).path, "--ckpt", CASE.folder, "--json")
    said = json.loads(out)
    assert code == 3 and said["verdict"] == "not run" and "4.18 GB" in said["steps"][-1]["why_not"]


def test_a_backend_that_fails_on_its_last_prompt_leaves_the_next_one_its_turn(bundle_of, command, monkeypatch):
    run = decoder.generate

    def last_fails(runtime, prompts, forced):
        if runtime.backend == "onnxruntime" and prompts.input_ids.shape[1] > 100:
            raise UserError("it failed", where="graph prefill", fix="-")
        return run(runtime, prompts, forced=forced)

    monkeypatch.setattr(decoder, "generate", last_fails)
    options = ("--backend", "onnxruntime", "--backend", "pytorch", "--json")
    code, out, _ = command("verify", bundle_of(CASE).path, "--ckpt", CASE.folder, *options)
    steps = {step["name"]: step for step in json.loads(out)["steps"]}
    assert code == 1 and steps["onnxruntime"]["cases"]["longest"][0]["note"] == "it failed"
    assert steps["pytorch"]["before"] == "pytorch, the bundle's weights" and len(steps["pytorch"]["cases"]) == 4


def test_several_backends_each_against_the_one_before(bundle_of, command):
    here = [name for name in BACKENDS if get_backend(name).compiler is None]
    options = [part for name in here for part in ("--backend", name)]
    code, out, _ = command("verify", bundle_of(CASE, fold="lowrank").path, *options, "--json")
    steps = json.loads(out)["steps"]
    assert code == 0 and [step["name"] for step in steps] == here == json.loads(out)["required"]
    assert [step["before"] for step in steps] == ["pytorch, unfolded", *here[:-1]]


def test_the_page_and_the_tables_of_a_bundle_with_faults_to_find(bundle_of, tmp_path, command):
    page = tmp_path / "report.html"
    own = copy_of(bundle_of(CASE), tmp_path / "own")
    verify = ("verify", own.path, "--ckpt", CASE.folder, "--negative-controls", "--html", page)
    code, out, _ = command(*verify)
    text = page.read_text("utf-8")
    assert code == 0 and "Known faults, each planted in a copy of the bundle" in out
    assert re.search("^stale cache slot +found +layer 3, decode +key cache *$", out, re.MULTILINE)
    assert "<script" not in text and "Known faults" in text and "stale cache slot" in text and "<svg" in text
    code, out, _ = command(*verify, "--json")
    assert set(json.loads(out)) == set(json.loads(schema_file("parity-report").read_text())["properties"])


def test_labelled_questions_are_scored(bundle_of, command):
    bundle = bundle_of(TINY, fold="lowrank")
    code, out, err = command("verify", bundle.path, "--ckpt", TINY.folder, "--inputs", LABELLED, "--json")
    accuracy = json.loads(out)["accuracy"]
    assert code == 0, err
    assert accuracy["questions"] == len(LABELLED.read_text().splitlines())
    assert accuracy["bundle"] == {"onnxruntime": accuracy["reference"]} and accuracy["agree"] == {"onnxruntime": 1.0}


def test_numbers_that_are_not_finite_differ(bundle_of, tmp_path, command):
    """A graph that fails is a verdict, not wrong use."""
    from verify.test_divergence import scaled

    spoilt = scaled(bundle_of(CASE), "layers.3.ffn.down.weight", float("inf"), tmp_path / "spoilt")
    code, out, err = command("verify", spoilt.path, "--ckpt", CASE.folder, "--json")
    said = json.loads(out)
    assert code == 1 and said["verdict"] == "differs", err
    assert said["steps"][-1]["cases"]["text"][0]["note"] == "the values of the fold state are not finite"
    assert (said["first_divergence"]["layer"], said["first_divergence"]["stage"]) == (3, "down")
