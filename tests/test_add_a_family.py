"""The page that says how a family is added: the family on it is taken from the page, and every command works on its checkpoint."""

import json
import re
import sys
import types
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eas_export import families
from eas_export.checkpoint.architectures import Architecture
from eas_export.core.configs.adapter import AdapterConfig
from eas_export.core.configs.decoder import ModelConfig
from eas_export.core.configs.vit import ImageConfig, VisionConfig
from eas_export.networks import Network

PAGE = Path(__file__).parent.parent / "docs" / "add-a-family.md"
NAME = "eas_export.families.toy"
CONFIG = ModelConfig(
    family="toy",
    vocab_size=50,
    dim=32,
    layers=3,
    heads=2,
    kv_heads=2,
    ffn_dim=48,
    norm_eps=1e-5,
    rope_theta=10000.0,
    rope_interleaved=False,
    modality_token=False,
    kept_adapter=AdapterConfig(rank=4, scale=1.0, temperature=10.0),
    skipped_adapter=AdapterConfig(rank=6, scale=1.0, temperature=10.0),
    vision=VisionConfig(
        image_size=8,
        patch_size=4,
        width=16,
        blocks=1,
        heads=1,
        ffn_dim=32,
        features="patches",
        feature_every=1,
        projector_width=16,
        projector_activation="gelu",
        image=ImageConfig(square="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
)


@pytest.fixture
def toy(monkeypatch):
    """The page's first block of code as the module that it would be, with its row in the table."""
    code = re.search(r"```python\n(\"\"\".*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]
    module = types.ModuleType(NAME)
    module.__package__ = "eas_export.families"
    exec(compile(code, str(PAGE), "exec"), vars(module))
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setitem(families.FAMILIES, "toy", ".families.toy:TOY")
    return module


def write_checkpoint(toy, folder: Path) -> Path:
    """Random weights under the published names, of the shapes that the key table says."""
    random, sizes = torch.Generator().manual_seed(0), toy._sizes(CONFIG)
    tensors = {}
    for pattern, key in toy.KEYS.items():
        shape = [eval(size, {}, sizes) if isinstance(size, str) else size for size in key.shape]
        blocks = CONFIG.vision.blocks if "{v}" in pattern else CONFIG.layers
        for i in range(blocks if "{" in pattern else 1):
            name = pattern.replace("{i}", str(i)).replace("{v}", str(i))
            tensors[name] = torch.randn(shape, generator=random) / 4 + (1.0 if "norm" in name else 0.0)
    folder.mkdir()
    save_file(tensors, folder / toy.WEIGHTS)
    (folder / toy.SETTINGS).write_text(json.dumps({"config": CONFIG.model_dump(mode="json"), "skipped": [1]}))
    return folder


def test_the_family_on_the_page_is_built_verified_and_run(toy, tmp_path, command, refused):
    ckpt, out = write_checkpoint(toy, tmp_path / "ckpt"), tmp_path / "toy.bundle"
    assert families.detect(ckpt).name == "toy"
    code, said, err = command("build", "--ckpt", ckpt, "--out", out, "--max-prompt", 24, "--max-tokens", 40, "--json")
    assert code == 0, err
    built = json.loads(said)
    assert built["plan"]["skipped"] == [1] and built["report"]["verdict"] == "same as the checkpoint"
    code, said, err = command("verify", out, "--ckpt", ckpt, "--negative-controls", "--json")
    report = json.loads(said)
    assert code == 0, err
    assert [control["ok"] for control in report["controls"]] == [True] * 6
    assert {shortcut["name"] for shortcut in report["shortcuts"]} == {"published fold"}
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", input_ids=[[1, -1, 7, 9]], pixel_values=pixels[:1], image_row=[0])
    code, said, err = command("run", out, "--inputs", tmp_path / "x.npz", "--max-new-tokens", 3, "--json")
    assert code == 0 and len(json.loads(said)["tokens"][0]) == 3, err
    np.savez(tmp_path / "two.npz", input_ids=[[1, -1, 7, 9]], pixel_values=pixels, image_row=[0, 0])
    assert "a prompt with 2 images has 1 places for them (-1)" in refused("run", out, "--inputs", tmp_path / "two.npz")
    assert "a toy checkpoint does not take --vision" in refused("inspect", ckpt, "--vision", ckpt)


def test_the_page_names_everything_that_an_architecture_says():
    section = PAGE.read_text("utf-8").split("## Add an architecture")[1].split("\n## ")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^- (.*?):", section, re.M)))
    assert named and set(named) == {f.name for f in fields(Architecture)}


def test_the_page_names_everything_that_a_kind_of_network_gives():
    assert tuple(re.findall(r"^\| `(\w+)` \|", PAGE.read_text("utf-8"), re.M)) == tuple(f.name for f in fields(Network))
