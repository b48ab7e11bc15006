"""Files whose keys have prefixes, wrappers inside, or an entry around them give the tensors that the published files give."""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from meter_cases import MeterCase
from reference import naive
from synthetic_llava import LlavaShape, write_llava
from test_naive_loaders import check

from eas_export.core.errors import UserError
from eas_export.core.progress import Progress
from eas_export.families import detect, load_checkpoint
from eas_export.families.contract import Ranks, Sources

PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "base_model.model.",
    "transformer.",
    "module._orig_mod.",
    "model.module.",
)
INSIDE = ("_orig_mod.", "module.", "_fsdp_wrapped_module._checkpoint_wrapped_module.")
ENTRIES = ("state_dict", "model", "module", "model_state_dict")
LAVIN, LLAVA, METER = GOLDEN / "lavin" / "half_13B", GOLDEN / "llava" / "half", MeterCase("vqa_skip10")
Rename = Callable[[str], str]
naive_lavin, naive_llava, naive_meter = cache(naive.lavin), cache(naive.llava), cache(naive.meter)


def behind(prefix: str) -> Rename:
    return lambda key: prefix + key


def around(wrapper: str) -> Rename:
    """Every block is wrapped, the first part of a key, too."""
    return lambda key: re.sub(r"(\.\d+\.|^[a-z]\w*_\w+\.)", rf"\1{wrapper}", key)


def rewrite(file: Path, rename: Rename, entry: str | None = None, within: str | None = None) -> None:
    """within: the entry of the published file that has the tensors; entry: the one where they are put"""
    with torch.serialization.safe_globals([argparse.Namespace]):
        saved = torch.load(file, weights_only=True)
    state = {rename(key): tensor for key, tensor in (saved.pop(within) if within else saved).items()}
    file.unlink()  # it may be a link
    others = saved if within else {"epoch": 3, "loss": torch.tensor(0.3), "optimizer": {"state": {0: torch.ones(2)}}}
    torch.save(state if entry is None else others | {entry: state}, file)


FORMS: dict[str, tuple[Rename, Rename, Rename]] = {  # one for each part of a checkpoint
    prefix: tuple(behind(PREFIXES[(i + part) % len(PREFIXES)]) for part in range(3))
    for i, prefix in enumerate(PREFIXES)
} | {f"inside: {wrapper}": (around(wrapper),) * 3 for wrapper in INSIDE}
FORMS["inside and before"] = (lambda key: f"module.{around('_orig_mod.')(key)}",) * 3


@pytest.mark.parametrize("form", FORMS)
def test_lavin(form, tmp_path):
    """The adapters' file, each of LLaMA's shards and CLIP."""
    adapters, llama, clip = FORMS[form]
    folder = shutil.copytree(LAVIN, tmp_path / "data")
    rewrite(next(folder.glob("checkpoint-*.pth")), adapters, "model", "model")
    rewrite(next(folder.glob("clip/*.pth")), clip)
    for shard in folder.glob("weights/*/*.pth"):
        rewrite(shard, llama)
    check(folder, naive_lavin(LAVIN))


def llava(folder: Path, model: Rename, tower: Rename) -> Path:
    """A copy with other keys, in its index, too."""
    shutil.copytree(LLAVA, folder)
    for file in folder.glob("*.bin"):
        rewrite(file, model)
    (index,) = folder.glob("*.index.json")
    said = json.loads(index.read_text())
    said["weight_map"] = {model(key): name for key, name in said["weight_map"].items()}
    index.write_text(json.dumps(said))
    for file in folder.glob("*/*.bin"):
        rewrite(file, tower)
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_llava(form, tmp_path):
    """The model and its tower; LLaVA's own keys begin with model."""
    model, tower, _ = FORMS[form]
    check(llava(tmp_path / "data", model, tower), naive_llava(LLAVA))


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_a_tower_in_all_of_clip_or_by_other_names(prefix, tmp_path):
    """The text half has keys that end like the tower's; transformers 5 writes the tower without "vision_model."."""
    file = "vision_tower/pytorch_model.bin"
    text = {f"text_model.{key}": torch.ones(2) for key in ("encoder.layers.0.mlp.fc1.bias", "final_layer_norm.bias")}
    for name, change in (
        ("whole", lambda state: state | text | {"logit_scale": torch.ones(1)}),
        ("bare", lambda state: {key.removeprefix("vision_model."): tensor for key, tensor in state.items()}),
    ):
        folder = shutil.copytree(LLAVA, tmp_path / name)
        torch.save(change(torch.load(folder / file, weights_only=True)), folder / file)
        rewrite(folder / file, behind(prefix))
        check(folder, naive_llava(LLAVA))


@pytest.mark.parametrize("form", FORMS)
def test_meter(form, tmp_path):
    file = Path(shutil.copy(METER.file, tmp_path / "last.ckpt"))
    rewrite(file, FORMS[form][0], "state_dict", "state_dict")
    check(file, naive_meter(METER.file, METER.text_heads), text_heads=METER.text_heads)


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_with_the_tensors_is_found(entry, tmp_path):
    folder = shutil.copytree(LAVIN, tmp_path / "lavin")
    rewrite(next(folder.glob("checkpoint-*.pth")), behind("module."), entry, "model")
    rewrite(next(folder.glob("clip/*.pth")), behind("model."), entry)
    for shard in folder.glob("weights/*/*.pth"):
        rewrite(shard, behind(""), entry)
    check(folder, naive_lavin(LAVIN))
    folder = shutil.copytree(LLAVA, tmp_path / "llava")
    for file in (*folder.glob("*.bin"), *folder.glob("*/*.bin")):
        rewrite(file, behind(""), entry)
    check(folder, naive_llava(LLAVA))
    file = Path(shutil.copy(METER.file, tmp_path / "last.ckpt"))
    rewrite(file, behind("model."), entry, "state_dict")
    check(file, naive_meter(METER.file, METER.text_heads), text_heads=METER.text_heads)


@pytest.mark.parametrize("name", ["x.ckpt", "x.pth", "x.pt"])
def test_a_state_dict_alone_is_read(name, tmp_path):
    """METER's with options for what it does not say; LaVIN's trained tensors without the arguments of training."""
    file = tmp_path / name
    torch.save(torch.load(METER.file, weights_only=True)["state_dict"], file)
    said = naive_meter(METER.file, METER.text_heads)[1]
    options = {"text_length": said["text_length"], "cross_heads": said["heads"], "text_heads": METER.text_heads}
    check(file, naive_meter(METER.file, METER.text_heads), **options)
    assert detect(file).name == "meter"
    adapters = next(LAVIN.glob("checkpoint-*.pth"))
    assert detect(Path(shutil.copy(adapters, tmp_path / "adapters.pth"))).name == "lavin"
    with torch.serialization.safe_globals([argparse.Namespace]):
        saved = torch.load(adapters, weights_only=True)
    torch.save(saved["model"], tmp_path / "adapters.pth")
    paths = {"weights": next(LAVIN.glob("weights/*")), "vision": next(LAVIN.glob("clip/*.pth"))}
    numbers = {"adapter_scale": saved["args"].adapter_scale, "router_temperature": saved["args"].temperature}
    check(tmp_path / "adapters.pth", naive_lavin(LAVIN), **paths, **numbers)


def test_an_unknown_torch_file_shows_its_first_key(tmp_path):
    torch.save({"model": {"net.a": torch.ones(2), "net.b": torch.ones(2)}}, tmp_path / "x.pth")
    with pytest.raises(
        UserError, match=r"not a checkpoint of a known family: its first key is 'net.a' .*meter: a Light"
    ):
        detect(tmp_path / "x.pth")


def test_training_and_a_base_model_with_prefixes(tmp_path):
    """Both read folders, too: what is written has the published keys."""
    base = write_llava(tmp_path / "base", LlavaShape(layers=2, skip=(), search=True))
    fine = write_llava(tmp_path / "fine", LlavaShape(layers=2, skip=(1,)))
    want = load_checkpoint(Sources(fine, base_weights=base))
    rewrite(base / "pytorch_model.bin", behind("base_model.model."), "model_state_dict")
    got = load_checkpoint(Sources(fine, base_weights=base))
    assert got.tensors.keys() == want.tensors.keys() and "layers.1.attention.q.weight" in got.tensors
    assert all(torch.equal(got.tensors[name].read(), tensor.read()) for name, tensor in want.tensors.items())
    trained = detect(base).train(Sources(base), Ranks(4, 4), 0, torch.device("cpu"))
    (tmp_path / "out").mkdir()
    trained.write((1,), tmp_path / "out", Progress())
    assert load_checkpoint(Sources(tmp_path / "out")).tensors.keys() == load_checkpoint(Sources(fine)).tensors.keys()
