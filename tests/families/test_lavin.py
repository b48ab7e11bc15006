"""LaVIN-EAS checkpoints: what is read from the training arguments and from LLaMA's params.json, and what is refused."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from synthetic import Shape, write_checkpoint

from eas_export.core.errors import UserError
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources

SHAPE = Shape(
    "7B", 64, 2, heads=4, vocab=64, multiple_of=32, rank=4, skip=(1,), clip_width=64, clip_blocks=4, clip_image=28
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "data", SHAPE)


def say(folder: Path, **settings: object) -> None:
    """Training arguments in the adapters' file."""
    path = folder / "checkpoint-19.pth"
    with torch.serialization.safe_globals([argparse.Namespace]):
        saved = torch.load(path, weights_only=True)
    saved["args"] = argparse.Namespace(**vars(saved["args"]) | settings)
    torch.save(saved, path)


def test_what_training_did_to_the_weights_is_noted(folder):
    assert load_checkpoint(Sources(folder)).notes == ()
    say(folder, use_vicuna=True, bits="4bit")
    vicuna, bits = load_checkpoint(Sources(folder)).notes
    assert "must already include Vicuna's delta" in vicuna and "LLaMA quantised to 4bit" in bits


def test_arguments_of_training_alone_change_nothing(folder):
    """The published code uses them in training, or reads the same from the tensors."""
    want = load_checkpoint(Sources(folder)).config
    say(folder, drop_path=0.1, cpu_load=True, gradient_checkpointing=True, max_seq_len=64, visual_adapter_type="normal")
    assert load_checkpoint(Sources(folder)).config == want


def params(folder: Path, **changes: object) -> None:
    path = folder / "weights" / "7B" / "params.json"
    said = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in said.items() if value != "absent"}))


def test_what_params_leaves_out_is_as_published(folder):
    params(folder, norm_eps="absent", vocab_size=32000)
    config = load_checkpoint(Sources(folder)).config
    assert (config.norm_eps, config.ropes[0].theta, config.vocab_size) == (1e-5, 1e4, 64)  # ModelArgs; embedding rows


@pytest.mark.parametrize(
    "key, value",
    [("ffn_dim_multiplier", 1.3), ("use_scaled_rope", True), ("n_kv_heads", 2), ("multiple_of", 256), ("dim", 62)],
)
def test_other_llamas_are_refused(folder, key, value):
    params(folder, **{key: value})
    with pytest.raises(UserError, match=f"{key}|feed_forward.w1.weight has shape") as error:
        load_checkpoint(Sources(folder))
    assert "weights" in error.value.where and error.value.fix


@pytest.mark.parametrize("sizes", [dict(clip_image=336), dict(clip_blocks=6), dict(clip_width=96)])
def test_only_the_published_tower_fits(tmp_path, sizes):
    """The published code knows CLIP's ViT-L/14 of 224 pixels alone; the one of 336 has the same blocks."""
    wide = {"dim": 64, "rank": 4, "clip_blocks": 4, "clip_width": 64} | sizes
    shape = Shape("7B", layers=1, heads=4, vocab=64, multiple_of=32, skip=(), **wide)
    with pytest.raises(UserError, match=r"does not fit LaVIN.*ViT-L/14 of 224 pixels"):
        load_checkpoint(Sources(write_checkpoint(tmp_path / "data", shape)))
