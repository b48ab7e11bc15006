"""Stored weights are held to the checkpoint's by themselves: an error that no prompt shows at half precision is found."""

import json
import shutil

import pytest
import torch
from conftest import golden_case, llava_golden_case
from meter_cases import MeterCase

from eas_export.bundle.bundle import open_bundle, write_manifest
from eas_export.bundle.manifest import WEIGHTS
from eas_export.core.progress import Progress
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.networks.prune import prune
from eas_export.system.hashing import sha256_of
from eas_export.verify.weights import COMPUTED, COPIED, compare_weights

CASE = llava_golden_case("a")


def spoiled(bundle, tmp_path, name, change):
    """A copy of the bundle in which one stored tensor was changed, and its sha256 recorded."""
    copy = open_bundle(shutil.copytree(bundle.path, tmp_path / "copy.bundle"))
    entry = copy.store.entries[name]
    value = change(copy.store.tensor(name).clone())
    with open(copy.path / WEIGHTS, "r+b") as file:
        file.seek(entry.offset)
        file.write(bytes(value.contiguous().flatten().view(torch.uint8).numpy()))
    files = dict(copy.manifest.files)
    files[WEIGHTS] = files[WEIGHTS].model_copy(update={"sha256": sha256_of(copy.path / WEIGHTS)})
    write_manifest(copy.path, copy.manifest.model_copy(update={"files": files}))
    return open_bundle(copy.path)


def copied_tensor(bundle) -> str:
    return f"layers.{bundle.manifest.plan.kept[-1]}.attention.k.weight"


def computed_tensor(bundle) -> str:
    return f"layers.{bundle.manifest.plan.skipped[0]}.ffn.up.weight"


def lines_of(bundle, checkpoint):
    lines = compare_weights(bundle, prune(checkpoint, bundle.manifest.plan), Progress())
    return {line.kind: line for line in lines}


@pytest.mark.parametrize("name", [copied_tensor, computed_tensor])
def test_a_matrix_that_is_a_little_off_in_fp16_is_found(bundle_of, tmp_path, command, name):
    bundle = bundle_of(CASE, "fp16")
    wrong = spoiled(bundle, tmp_path, name(bundle), lambda value: value * 1.002)
    code, text, _ = command("verify", wrong.path, "--ckpt", CASE.folder, "--json")
    said = json.loads(text)
    off = [
        (step["name"], name, line)
        for step in said["steps"]
        for name, lines in step["cases"].items()
        for line in lines
        if not line["ok"]
    ]
    assert not off  # prompts hide it
    assert code == 1 and said["verdict"] == "differs" and said["first_divergence"]["stage"] == name(bundle)
    named = [each["name"] for line in said["weights"] for each in line["named"]]
    assert named == [name(bundle)]
    page = tmp_path / "report.html"
    code, text, _ = command("verify", wrong.path, "--ckpt", CASE.folder, "--html", page)
    assert code == 1 and f"first divergence: {name(bundle)}" in text and "stored weights differ" in text
    assert name(bundle) in page.read_text() and "1 stored tensor is not the checkpoint" in page.read_text()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_copied_tensor_is_compared_to_the_bit(bundle_of, tmp_path, precision):
    bundle = bundle_of(CASE, precision)

    def last_bit(value):
        flat = value.flatten().view({4: torch.int32, 2: torch.int16}[value.element_size()])
        flat[0] ^= 1
        return flat.view(value.dtype).reshape(value.shape)

    wrong = spoiled(bundle, tmp_path, copied_tensor(bundle), last_bit)
    lines = lines_of(wrong, CASE.checkpoint)
    assert lines[COPIED].differ == 1 and lines[COPIED].named[0].name == copied_tensor(bundle) and lines[COMPUTED].ok


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_computed_tensor_may_be_rounded_once_more(bundle_of, tmp_path, precision):
    """Its float32 sums may have another order where it was built."""
    bundle = bundle_of(CASE, precision)
    eps = torch.finfo(getattr(torch, {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision])).eps
    for number, ok in ((0.4, True), (60, False)):
        change = lambda value, n=number: (value.float() * (1 + n * eps)).to(value.dtype)
        wrong = spoiled(bundle, tmp_path / str(number), computed_tensor(bundle), change)
        lines = lines_of(wrong, CASE.checkpoint)
        assert lines[COPIED].ok and lines[COMPUTED].ok == ok


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("family", ["lavin", "llava", "meter"])
def test_every_tensor_of_a_good_bundle_is_the_checkpoints(bundle_of, meter_bundle_of, family, precision):
    if family == "meter":
        meter = MeterCase("vqa_skip10")
        bundle = meter_bundle_of(meter, precision)
        checkpoint = load_checkpoint(Sources(meter.file, text_heads=meter.text_heads))
    else:
        case = {"lavin": golden_case("first"), "llava": CASE}[family]
        bundle, checkpoint = bundle_of(case, precision), case.checkpoint
    lines = lines_of(bundle, checkpoint)
    assert lines[COPIED].ok and lines[COMPUTED].ok
    assert lines[COPIED].tensors > 0 and lines[COMPUTED].tensors > 0
    assert lines[COPIED].tensors + lines[COMPUTED].tensors == len(bundle.store.entries)
