"""LLaVA's tensors by their published names: of a whole model, or of a LoRA over its base model. Pairs are merged.

Formats: a LoRA is PEFT's folder (checkpoint/peft.py). LLaVA's own training of one writes the whole model's config.json beside it; without that file
the base model's holds. The base may be a LLaMA, where the LoRA's folder has the config and the projector.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...checkpoint.hf_files import CONFIG_FILE
from ...checkpoint.hf_text import TextConfig
from ...checkpoint.hugging_face import Tensors, left_over, read_folder
from ...checkpoint.json_file import read_json
from ...checkpoint.layouts import ADAPTER_CONFIG, refuse_part
from ...checkpoint.lora import HALF, merge_pairs, pair_keys
from ...checkpoint.peft import is_lora, read_lora, read_lora_config, scale_of
from ...core.errors import UserError
from ..contract import Sources
from .files import EVERY_KEY, OWN_TOWER, LlavaConfig

KEYS_AND_PAIRS = {**EVERY_KEY, **pair_keys(EVERY_KEY)}


class BaseConfig(TextConfig):
    """config.json of the model that training started from: of a LLaVA, or of a LLaMA."""

    read_as: ClassVar = "llama"


@dataclass(frozen=True)
class Published:
    """A model's config, its tensors by their published names, every file that was opened for them, and notes.

    folders  in which its other files are looked for, in this order
    """

    config: LlavaConfig
    tensors: Tensors
    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def find(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    @property
    def home(self) -> Path:
        """The folder of its config.json."""
        return self.find(CONFIG_FILE).parent


def read_model(sources: Sources) -> Published:
    """Read the headers of the language model's files. Raises UserError for a LoRA without its base model, or with one that it does not fit."""
    folder, base = sources.ckpt, sources.base_weights
    if not is_lora(folder):
        config = read_config(folder)
        tensors, files, notes = _read_whole(folder)
        return Published(config, tensors, files, (folder,), notes)
    if base is None:
        refuse_part(folder)
    own = (folder / CONFIG_FILE).is_file()
    config = read_config(folder if own else base)
    tensors, files, notes = _read_whole(base)
    if own:
        require_same_attentions(base, config)
    lora = read_lora_config(folder)
    changes, lora_files = read_lora(folder, KEYS_AND_PAIRS)
    if any(key.startswith(OWN_TOWER) for key in changes):  # then the tower was trained, whatever config.json says
        config = config.model_copy(update={"unfreeze_mm_vision_tower": True})
    merged = merge_pairs(tensors | changes, scale_of(lora, folder / ADAPTER_CONFIG), folder)
    note = _note(changes, folder, base)
    files = (folder / ADAPTER_CONFIG, *lora_files, base / CONFIG_FILE, *files)
    return Published(config, merged, files, (folder, base), (*notes, note))


def _read_whole(folder: Path) -> tuple[Tensors, tuple[Path, ...], tuple[str, ...]]:
    """A whole model's tensors, where pairs may stand beside the weights; files; notes."""
    tensors, files = read_folder(folder, KEYS_AND_PAIRS)
    notes = left_over(folder)
    if any(map(HALF.fullmatch, tensors)):
        file = folder / ADAPTER_CONFIG
        if not file.is_file():
            what = f"the weights have a LoRA beside them, but no {ADAPTER_CONFIG} says its r and lora_alpha"
            raise UserError(what, where=folder, fix=f"put the {ADAPTER_CONFIG} that PEFT wrote into the folder")
        merged = merge_pairs(tensors, scale_of(read_lora_config(folder), file), folder)
        tensors, files, notes = merged, (*files, file), (*notes, _note(tensors, folder, folder))
    return tensors, files, notes


def _note(keys: Iterable[str], folder: Path, base: Path) -> str:
    count = len({match[1] for key in keys if (match := HALF.fullmatch(key))})
    return f"the LoRA of {folder.resolve().name} is merged into {count} weights of {base.resolve().name}"


def read_config(folder: Path) -> LlavaConfig:
    fix = f"give a LLaVA-1.5 model, or correct {CONFIG_FILE} where it says something else than its training did"
    return read_json(folder / CONFIG_FILE, LlavaConfig, "the config.json of a LLaVA-1.5 model", fix)


def require_same_attentions(base: Path, config: LlavaConfig) -> None:
    """Raise UserError for a model whose attentions compute something else, even if its weights have the same shapes."""
    fix = "give the model that training started from"
    theirs = _of_attentions(read_json(base / CONFIG_FILE, BaseConfig, "the config.json of a LLaMA model", fix))
    for key, ours in _of_attentions(config).items():
        if theirs[key] != ours:
            what = f"the base model's {key} is {theirs[key]}, the checkpoint's is {ours}"
            raise UserError(what, where=f"--base-weights {base}", fix=fix)


def _of_attentions(config: TextConfig) -> dict[str, object]:
    (rope,) = (keys.rope(config.head_size) for keys in config.ropes.values())
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "kv_heads", "head_size", "attention_bias")
    own = {key: getattr(config, key) for key in keys}
    return own | {"rope_theta": rope.theta, "rope_scaling": rope.scaling and rope.scaling.model_dump()}
