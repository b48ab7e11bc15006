"""What a step needs is asked before any work, and told with a remedy."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from common import RESULTS
from conftest import TINY, by_itself, golden_case
from synthetic import SHAPES, write_checkpoint
from synthetic_llava import LLAVA_SHAPES, write_llava
from synthetic_meter import MeterShape, write_meter

import eas_export.backends.onnxruntime.cpu
from eas_export.backends.opening import open_low_memory_runtime, open_runtime
from eas_export.build import estimate
from eas_export.system.machine import free_disk, free_memory, total_memory

CASE = golden_case("first")


def test_needs_of_a_7b_are_those_of_a_small_machine(tmp_path, command):
    folder = write_checkpoint(tmp_path / "data", SHAPES["7B"], skeleton=True)
    build = ("build", "--ckpt", folder, "--out", tmp_path / "o", "--precision", "fp16", "--dry-run")
    code, text, err = command(*build, "--json")
    assert code == 0, err
    needs = {need["step"]: need for need in json.loads(text)["needs"]}
    assert list(needs) == [
        "reading the checkpoint's identity",
        "writing weights",
        "exporting graphs",
        "comparing with PyTorch",
    ]
    assert needs["writing weights"]["disk_bytes"] == pytest.approx(12.5e9, rel=0.01)
    assert all(need["memory_bytes"] < 2.5e9 for step, need in needs.items() if step != "comparing with PyTorch")
    assert needs["comparing with PyTorch"]["memory_bytes"] < 4e9
    assert needs["comparing with PyTorch"]["disk_bytes"] == pytest.approx(4.18e9, rel=0.01)
    assert not needs["comparing with PyTorch"]["kept"] and all(need["seconds"] > 0 for need in needs.values())
    code, text, _ = command(*build)
    assert code == 0 and "estimates per step" in text and "4.18 GB, temporary" in text


def test_needs_of_a_cross_encoder_of_the_published_size(tmp_path, command):
    """Measured: benchmarks/results/real_size_meter_vqa_fp32.json"""
    measured = json.loads((RESULTS / "real_size_meter_vqa_fp32.json").read_text())
    file = write_meter(tmp_path / "data", MeterShape(), skeleton=True)
    skip = ",".join(map(str, measured["skipped"]))
    code, text, err = command("build", "--ckpt", file, "--out", tmp_path / "o", "--skip", skip, "--dry-run", "--json")
    assert code == 0, err
    needs = {need["step"]: need for need in json.loads(text)["needs"]}
    assert needs["writing weights"]["disk_bytes"] == pytest.approx(measured["written_bytes"], rel=0.01)
    assert max(needs[step]["memory_bytes"] for step in ("writing weights", "exporting graphs")) < 0.8e9
    verify = needs["comparing with PyTorch"]["memory_bytes"]
    assert measured["verify_memory_bytes"] < verify < 4e9
    assert json.loads(text)["accounts"]["after"]["total_bytes"] == measured["needed_bytes"]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_disk_that_is_too_small_is_told_before_any_work(tmp_path, refused, monkeypatch, more):
    monkeypatch.setattr(estimate, "free_disk", lambda path: 1_000_000)
    line = refused("build", "--ckpt", TINY.folder, "--out", tmp_path / "o", *more)
    assert "0.01 GB of disk are needed, but 0.00 GB are free" in line and "choose another disk for --out" in line
    assert not list(tmp_path.iterdir())


def test_memory_that_is_too_small_is_told_before_any_work(bundle_of, tmp_path, refused, monkeypatch):
    bundle = bundle_of(CASE)
    monkeypatch.setattr(estimate, "free_memory", lambda: 1_000_000)
    line = refused("build", "--ckpt", TINY.folder, "--out", tmp_path / "o")
    assert "comparing with PyTorch takes up to 0.40 GB of memory, but 0.00 GB are free" in line
    assert "comparing with PyTorch takes up to" in refused("verify", bundle.path)
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_needs_no_room(bundle_of, tmp_path, command, monkeypatch):
    """The unfinished build's own bytes, the bundle that is replaced, and a base's."""
    out = Path(shutil.copytree(bundle_of(by_itself(CASE)).path, tmp_path / "o"))
    monkeypatch.setattr(estimate, "GRAPH_FILES", 0)
    monkeypatch.setattr(estimate, "free_disk", lambda path: 0)
    again = ("build", "--ckpt", CASE.folder, "--no-verify", "--max-prompt", "99")
    assert command(*again, "--out", out, "--force", "--dry-run")[0] == 0
    assert command(*again, "--out", tmp_path / "x", "--base", out, "--dry-run")[0] == 0
    assert command(*again, "--out", tmp_path / "x", "--dry-run")[0] == 2
    for changed in (("--precision", "fp16"), ("--adapter-scale", "2"), ("--max-tokens", "1999"), ("--skip", "2")):
        assert command(*again, "--out", out, "--force", "--dry-run", *changed)[0] == 2  # the store is written anew
    unfinished = tmp_path / ".x.partial" / "bundle"
    unfinished.mkdir(parents=True)
    (unfinished / "weights.safetensors").write_bytes(bytes(10_000_000))
    assert command(*again, "--out", tmp_path / "x", "--dry-run")[0] == 0


def test_widened_weights_that_do_not_fit_are_refused(bundle_of, tmp_path, refused, command, monkeypatch):
    """fp16 on a CPU: ONNX Runtime makes a float32 copy for each graph."""
    bundle, mapped = bundle_of(CASE, "fp16"), bundle_of(CASE)
    said = json.loads(command("inspect", bundle.path, "--json")[1])["weights_in_memory"]
    decoder = sum(
        4 * e.nbytes // 2 for n, e in bundle.store.entries.items() if n.startswith("layers.") and ".ffn." in n
    )
    assert said["onnxruntime"] > 2 * decoder and said["pytorch"] == 0
    assert "widened in each graph" in command("inspect", bundle.path)[1]
    assert "none, the file is memory-mapped" in command("inspect", mapped.path)[1]
    monkeypatch.setattr(eas_export.backends.onnxruntime.cpu, "free_memory", lambda: said["onnxruntime"] - 1)
    np.savez(tmp_path / "in.npz", **CASE.arrays("txt1"))
    line = refused("run", bundle.path, "--inputs", tmp_path / "in.npz", "--backend", "onnxruntime")
    assert "widens fp16 weights on a CPU, a copy per graph" in line and "--precision fp32" in line
    open_runtime(mapped, "onnxruntime")  # nothing is widened
    open_low_memory_runtime(bundle, "onnxruntime")  # nor is all of it at once


def test_llava_at_real_size(tmp_path, command, monkeypatch):
    """Sizes alone decide: the tensors are holes. An image's 576 tokens go through the model in every pass."""
    monkeypatch.setattr(estimate, "free_disk", lambda path: 1 << 40)
    monkeypatch.setattr(estimate, "free_memory", lambda: 1 << 40)
    folder = write_llava(tmp_path / "ckpt", LLAVA_SHAPES["7B"], skeleton=True)
    code, text, err = command(
        "build", "--ckpt", folder, "--out", tmp_path / "o", "--precision", "fp16", "--dry-run", "--json"
    )
    assert code == 0, err
    said, needs = json.loads(text), {need["step"]: need for need in json.loads(text)["needs"]}
    assert said["accounts"]["after"]["kv_bytes_per_token"] == 20 * 2 * 4096 * 2
    assert 12.6e9 < needs["writing weights"]["disk_bytes"] < 12.8e9
    assert (
        4e9 < max(need["memory_bytes"] for need in needs.values()) < 4.4e9
    )  # of which 0.3 are the blocks' outputs on an image
    passes = 6 * 2 * said["accounts"]["after"]["total_parameters"] * 576 / 70e9  # seconds
    assert 1.1 * passes < needs["comparing with PyTorch"]["seconds"] < 3 * passes


def test_the_machine_is_asked(tmp_path):
    assert 0 < free_memory() <= total_memory()
    assert free_disk(tmp_path) == free_disk(tmp_path / "not" / "there") > 0


def engines_need(monkeypatch, command, tmp_path, *options: str) -> dict:
    args = ("build", "--ckpt", CASE.folder, "--out", tmp_path / "o", "--precision", "fp16", "--dry-run", "--json")
    code, text, _ = command(*args, *options)
    said = json.loads(text)
    assert code == 0 and (said["device_memory"] is None) == (not options)
    return {need["step"]: need for need in said["needs"]}.get("building engines")


def test_engines_are_counted_before_they_are_built(monkeypatch, command, tmp_path):
    assert engines_need(monkeypatch, command, tmp_path) is None
    bound = engines_need(monkeypatch, command, tmp_path, "--backend", "tensorrt-rtx")
    embedded = engines_need(monkeypatch, command, tmp_path, "--backend", "tensorrt-rtx", "--engine-weights", "embedded")
    assert embedded["memory_bytes"] > bound["memory_bytes"] > 5e8 and embedded["disk_bytes"] > bound["disk_bytes"] > 1e6
    assert not (tmp_path / "o").exists()
