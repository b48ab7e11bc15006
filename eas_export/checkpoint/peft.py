"""PEFT's LoRA: a folder with adapter_config.json beside adapter_model.safetensors or adapter_model.bin, over a base model in another folder.

Formats, of PEFT's save_pretrained: keys are the base model's behind "base_model.model.": X.lora_A.weight and X.lora_B.weight for the weight X.weight,
and whole tensors under their own names, of modules_to_save and of biases that were trained. LLaVA's training writes what else it trained, such as
its projector, to non_lora_trainables.bin.
"""

import re
import reprlib
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..core.errors import UserError
from ..core.record import quoted
from .hugging_face import Flag, HfRecord, Tensors, find_weights, read_file
from .json_file import read_json
from .keys import KeyTable
from .layouts import ADAPTER_CONFIG, MERGE_LORA
from .quantised import require_floats
from .state_dict import first_unknown, fit

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")  # in the order in which PEFT looks for them
NOT_LORA = "non_lora_trainables.bin"
OTHERS = (  # what PEFT can do beside, each off unless its key says something
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "trainable_token_indices"),
    *("target_parameters", "arrow_config", "alora_invocation_tokens", "monteclora_config", "kasa_config"),
)
CHANGE_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # of init_lora_weights: the model's own weights, too
SLOW = re.compile(r"\)[*+{]|(?:[*+{].*){4}")  # patterns that could take for ever: a repeated group, or many repeats

Rank = Annotated[int, Field(gt=0, le=1 << 16)]
Alpha = Annotated[float, Field(gt=0, le=1e6)]


class LoraConfig(HfRecord):
    """adapter_config.json; the defaults are PEFT's. Patterns are regular expressions of a module's name, or of the end of it."""

    peft_type: Literal["LORA"]
    r: Rank = 8
    lora_alpha: Alpha = 8
    use_rslora: Flag = False
    rank_pattern: dict[str, Rank] = Field(default={})
    alpha_pattern: dict[str, Alpha] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _is_plain(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for key in OTHERS:
            if values.get(key):
                raise ValueError(f"{key} is {reprlib.repr(values[key])}, which is not supported")
        start = values.get("init_lora_weights")
        if str(start).lower().startswith(CHANGE_THE_BASE):
            raise ValueError(f"init_lora_weights is {reprlib.repr(start)}, which changed the base model's weights, too")
        return {key: value for key, value in values.items() if value is not None}

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _can_be_matched(cls, patterns: dict[str, Any]) -> dict[str, Any]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{reprlib.repr(pattern)} is no regular expression ({error})") from None
            if len(pattern) > 1024 or SLOW.search(pattern):
                raise ValueError(f"{reprlib.repr(pattern)} is too long, repeats a group or has more than 3 repeats")
        return patterns


def scale_of(config: LoraConfig, file: Path) -> Callable[[str, int], float]:
    """(module, rank of its pair) -> alpha / r, or alpha / sqrt(r), for lora.merge_pairs. That raises UserError for a pair of another rank than
    the file says."""

    def scale(module: str, rank: int) -> float:
        r, alpha = (
            _of(patterns, module, otherwise)
            for patterns, otherwise in ((config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha))
        )
        if r != rank:
            what = f"r of {quoted(module)} is {r} in the file, but its pair has rank {rank}"
            raise UserError(what, where=file, fix=f"give the {ADAPTER_CONFIG} that belongs to the LoRA")
        return alpha / (sqrt(r) if config.use_rslora else r)

    return scale


def _of(patterns: dict[str, Any], module: str, otherwise: Any) -> Any:
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), otherwise)


def is_lora(folder: Path) -> bool:
    """Whether a folder has a LoRA, and no whole weights."""
    return (folder / ADAPTER_CONFIG).is_file() and find_weights(folder) is None


def read_lora_config(folder: Path) -> LoraConfig:
    fix = "give a plain LoRA, or the model that PEFT's merge_and_unload() and save_pretrained() make of this one"
    return read_json(folder / ADAPTER_CONFIG, LoraConfig, "the adapter_config.json of a plain LoRA", fix)


def read_lora(folder: Path, table: KeyTable) -> tuple[Tensors, tuple[Path, ...]]:
    """The LoRA's pairs and whole tensors by the base model's published names, and every file that was opened for them. Raises UserError where a
    file is missing or damaged, and for other keys than the table's, which has rows for pairs (see lora.pair_keys, state_dict.published_names)."""
    file = next((folder / name for name in ADAPTERS if (folder / name).is_file()), None)
    if file is None:
        what = f"{ADAPTER_CONFIG} has no {' or '.join(ADAPTERS)} beside it"
        raise UserError(what, where=folder, fix="copy the folder again, with all its files")
    files = (file, *([folder / NOT_LORA] if (folder / NOT_LORA).is_file() else []))
    tensors: Tensors = {}
    for path in files:
        read = fit(read_file(path, table), table, path)
        require_floats(read, path)
        if unknown := first_unknown(read, table):
            what = f"unknown key {quoted(unknown)} of shape {list(read[unknown].shape)} in a LoRA"
            raise UserError(what, where=path, fix=MERGE_LORA)
        tensors |= read
    return tensors, files
