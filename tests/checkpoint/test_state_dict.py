"""Which keys are the model's: what is stripped, what stays, and what is refused."""

import time
from pathlib import Path

import pytest
import torch

from eas_export.checkpoint.architectures import ARCHITECTURES
from eas_export.checkpoint.hf_keys import text_keys
from eas_export.checkpoint.keys import merge_shards, rename, require
from eas_export.checkpoint.meta_llama import LLAMA_KEYS
from eas_export.checkpoint.openai_clip import CLIP_KEYS
from eas_export.checkpoint.state_dict import published_names, read_state
from eas_export.core.errors import UserError
from eas_export.families import detect

META = ["tok_embeddings.weight", "norm.weight", "output.weight", "layers.0.ffn_norm.weight", "layers.1.ffn_norm.weight"]
HF_KEYS = text_keys(ARCHITECTURES["llama"], False, False, "attention")
HUGGING_FACE = [key.replace("{i}", "0").replace("{attention}", "0") for key in HF_KEYS]
CLIP = [key.replace("{i}", "0") for key, row in CLIP_KEYS.items() if row]


def names(keys: list[str], table=LLAMA_KEYS) -> list[str]:
    return list(published_names(keys, table, "here").values())


def test_keys_that_fit_stay_as_they_are():
    assert names(META) == META
    assert names(HUGGING_FACE, HF_KEYS) == HUGGING_FACE  # which begin with model.
    assert names([f"model.{key}" for key in HUGGING_FACE], HF_KEYS) == HUGGING_FACE
    assert names([*META, "extra.bias"]) == [*META, "extra.bias"]  # refused where it is renamed
    assert names([], LLAMA_KEYS) == []


def test_a_prefix_may_be_the_name_of_what_is_left_out():
    """OpenAI's text encoder is called transformer; so is the model in many a program."""
    keys = [
        *CLIP,
        "transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.0.mlp.c_fc.bias",
        "logit_scale",
    ]
    assert names(keys, CLIP_KEYS) == keys
    assert names([f"transformer.{key}" for key in keys], CLIP_KEYS) == keys
    assert names([f"module.{key}" for key in keys], CLIP_KEYS) == keys


def test_what_is_beside_the_model_keeps_its_name():
    keys = [f"model.{key}" for key in META] + ["loss.weight"]
    assert names(keys) == [*META, "loss.weight"]
    assert names([f"module.{key}" for key in [*META, "rope.freqs"]]) == [*META, "rope.freqs"]


REFUSED = {
    "another model": (
        HUGGING_FACE,
        r"not those of this model: the first of \d+ is 'model.embed_tokens.weight', expected are keys such as tok_embeddings.weight",
    ),
    "some with a prefix": (
        [*META[:3], "module.layers.0.ffn_norm.weight"],
        "only some have one, or one is unknown: 'tok_embeddings.weight' and 'module.layers.0.ffn_norm.weight'",
    ),
    "one without a prefix": (
        [*(f"model.{key}" for key in META), "output.weight"],
        "only some have one, or one is unknown: 'output.weight' and 'model.tok_embeddings.weight'",
    ),
    "two models": (
        [f"{prefix}{key}" for key in META for prefix in ("student.", "teacher.")],
        "different prefixes.*'student.tok_embeddings.weight' and 'teacher.tok_embeddings.weight'",
    ),
    "two keys that become one": (
        [*META, "layers.0._orig_mod.ffn_norm.weight"],
        "'layers.0.ffn_norm.weight' and 'layers.0._orig_mod.ffn_norm.weight' are one key of the model, 'layers.0.ffn_norm.weight'",
    ),
}


@pytest.mark.parametrize("title", REFUSED)
def test_what_is_not_told_is_refused(title):
    keys, said = REFUSED[title]
    with pytest.raises(UserError, match=said) as raised:
        names(keys)
    assert raised.value.where == "here" and raised.value.fix


HOSTILE = f"\x1b[2J{'a' * 100_000}"  # clears a terminal


@pytest.mark.parametrize(
    "refuse",
    [
        lambda tmp_path: names([HOSTILE]),
        lambda tmp_path: names([*META, f"{HOSTILE}.{META[-1]}"]),
        lambda tmp_path: names([f"{HOSTILE}.{key}" for key in META] + [f"{HOSTILE}.module.{META[-1]}"]),
        lambda tmp_path: require({HOSTILE: torch.ones(1)}, "norm.weight", 1, "here"),
        lambda tmp_path: rename({HOSTILE: torch.ones(1)}, {}, {}, 0, "here"),
        lambda tmp_path: merge_shards([{HOSTILE: torch.ones(1)}, {}], {}, ["a", "b"]),
        lambda tmp_path: read_state(save(tmp_path, {"a": state(), HOSTILE: state()}), LLAMA_KEYS),
        lambda tmp_path: detect(save(tmp_path, {HOSTILE: torch.ones(1)})),
    ],
)
def test_a_files_key_is_shown_with_its_control_characters_escaped_and_not_whole(tmp_path, refuse):
    with pytest.raises(UserError, match=r"\\x1b\[2Jaaa") as raised:
        refuse(tmp_path)
    assert "\x1b" not in str(raised.value) and len(str(raised.value)) < 5000


def state(prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": torch.ones(2) for key in META}


def save(tmp_path: Path, saved: object) -> Path:
    torch.save(saved, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def test_two_state_dicts_are_one_too_many(tmp_path):
    file = save(tmp_path, {"model": state("module."), "ema": state(), "optimizer": {"lr": torch.ones(1)}})
    with pytest.raises(UserError, match="holds 2 state dicts that fit: 'model' and 'ema'") as raised:
        read_state(file, LLAMA_KEYS)
    assert raised.value.where == str(file) and "of one model alone" in raised.value.fix
    assert list(read_state(file, LLAMA_KEYS, "ema")[0]) == META  # where the published code has it
    assert list(read_state(save(tmp_path, state() | {"ema": state("x.")}), LLAMA_KEYS)[0]) == META
    with pytest.raises(UserError, match="holds 2 state dicts that fit: the file itself and 'ema'"):
        read_state(save(tmp_path, state() | {"ema": state()}), LLAMA_KEYS, "model")


def test_the_first_key_of_a_file_that_does_not_fit_is_shown(tmp_path):
    with pytest.raises(UserError, match=r"the first of 1 is 'a.b', expected are keys such as tok_embeddings.weight"):
        read_state(save(tmp_path, {"model": {"a.b": torch.ones(2)}}), LLAMA_KEYS, "model")


def test_a_key_of_many_names_takes_no_time():
    started = time.process_time()
    names([*META, "a." * 40_000])
    assert time.process_time() - started < 1
