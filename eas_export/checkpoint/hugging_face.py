"""Hugging Face folders: config.json beside weights as safetensors or torch files, in one file or in shards with an index.

Formats (transformers' save_pretrained): model.safetensors | model.safetensors.index.json and its shards | pytorch_model.bin |
pytorch_model.bin.index.json and its shards. An index is {"metadata": ..., "weight_map": {key: file in the folder}}.
"""

import json
import reprlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, StrictBool

from ..core.errors import UserError
from ..core.record import quoted
from ..system.files import require_folder
from .hf_files import CONFIG_FILE
from .json_file import read_json
from .keys import KeyTable
from .layouts import LORA_PART, refuse_lora_beside
from .lazy_tensor import LazyTensor
from .quantised import require_floats
from .safetensors_file import read_safetensors
from .state_dict import find_state, fit, refuse_by_name
from .torch_zip import read_torch_zip

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order in which they are looked for
LARGEST_CONFIG = 1 << 24  # bytes
NO_WEIGHTS = f"the folder has no {WEIGHTS[0]}, {WEIGHTS[1]} or index of shards"

Tensors = dict[str, LazyTensor]
# null stands for false, as in LLaVA's code and the transformers that it runs on; transformers 5 refuses it
Flag = Annotated[StrictBool, BeforeValidator(lambda value: value is not None and value)]


class HfRecord(BaseModel):
    """The keys of a Hugging Face JSON file that are read; all others are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class HfConfig(HfRecord):
    """What the config.json of any model may have."""

    quantization_config: Any = None


class Index(HfRecord):
    weight_map: dict[str, str]


def peek_config(folder: Path) -> dict[str, Any]:
    """What config.json says, for telling a layout; empty where it is missing, damaged or unusually large."""
    config = folder / CONFIG_FILE
    if not config.is_file() or config.stat().st_size > LARGEST_CONFIG:
        return {}
    try:
        values = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def find_weights(folder: Path) -> Path | None:
    """The file of the folder's weights, or the index of their shards; None without either. Of several the first, as in transformers, but an
    index that was left over, without any of its shards, counts only where there is nothing else."""
    found = _weights_in(folder)
    return next((path for path in found if not _is_left_over(path)), found[0] if found else None)


def left_over(folder: Path) -> tuple[str, ...]:
    """Notes about an index that `find_weights` passed over."""
    found, chosen = _weights_in(folder), find_weights(folder)
    passed = found[: found.index(chosen)] if chosen else []
    return tuple(f"{chosen.name} is read: of {path.name}, which is left over, no shard is there" for path in passed)


def _weights_in(folder: Path) -> list[Path]:
    names = [name for weights in WEIGHTS for name in (weights, f"{weights}.index.json")]
    return [folder / name for name in names if (folder / name).is_file()]


def _is_left_over(path: Path) -> bool:
    return path.name not in WEIGHTS and not any(shard.exists() for shard in _shards(path))


def read_folder(folder: Path, table: KeyTable) -> tuple[Tensors, tuple[Path, ...]]:
    """The folder's tensors by their published names, and every file that was opened for them. Raises UserError where a file or a
    key is missing or damaged, where the index and the shards disagree, for quantised weights, and for other keys than the table's (see
    state_dict.published_names)."""
    tensors, files = read_weights(folder, table)
    config = folder / CONFIG_FILE
    model = read_json(config, HfConfig, "a model's config.json", "copy it again") if config.is_file() else HfConfig()
    require_floats(tensors, folder, recorded=model.quantization_config)
    return fit(tensors, table, folder), files


def read_weights(folder: Path, table: KeyTable) -> tuple[Tensors, tuple[Path, ...]]:
    """As `read_folder`, by the keys in the files, which are not compared with the table."""
    weights = find_weights(folder)
    if weights is None or _is_left_over(weights):
        refuse_by_name(folder)
    if weights is None:
        fix = "give the folder that save_pretrained wrote, with all its files"
        raise UserError(NO_WEIGHTS, where=require_folder(folder, fix), fix=fix)
    whole = weights.name in WEIGHTS
    tensors, files = (read_file(weights, table), (weights,)) if whole else _read_shards(weights, table)
    if not any(LORA_PART in key for key in tensors):  # else they are the adapter_config.json's
        refuse_lora_beside(folder)
    return tensors, files


def _read_shards(weights: Path, table: KeyTable) -> tuple[Tensors, tuple[Path, ...]]:
    """The tensors of an index's shards, and these files."""
    folder, index, shards = weights.parent, weights.name, _shards(weights)
    tensors: Tensors = {}
    for path, keys in shards.items():
        if not path.exists():
            others = " or ".join(other.name for other in _weights_in(folder) if other != weights)
            fix = "copy all shards again" + (f", or move {index} elsewhere to read {others}" if others else "")
            raise UserError(f"shard {path.name} of {index} is missing", where=folder, fix=fix)
        shard = read_file(path, table)
        if missing := sorted(keys - set(shard)):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            what = f"shard {path.name} lacks {quoted(missing[0])}{more}, which {index} places in it"
            raise UserError(what, where=path, fix="copy all shards again")
        if unknown := sorted(set(shard) - keys):
            what = f"shard {path.name} has {quoted(unknown[0])}, which {index} does not place in it"
            raise UserError(what, where=path, fix="copy the index and the shards of one model")
        tensors |= shard
    return tensors, (weights, *shards)


def _shards(index: Path) -> dict[Path, set[str]]:
    """Each shard and its keys. Raises UserError for a shard outside the folder."""
    weight_map = read_json(index, Index, "an index of shards", "copy the file again").weight_map
    shards: dict[Path, set[str]] = {}
    for key, name in weight_map.items():
        if not stays_inside(name):
            what = f"weight_map[{reprlib.repr(key)}] is {reprlib.repr(name)}, which is outside the folder"
            raise UserError(what, where=index, fix="do not trust this file, or write plain file names of shards")
        shards.setdefault(index.parent / name, set()).add(key)
    if not shards:
        raise UserError("the index has an empty weight_map", where=index, fix="copy the file again")
    return dict(sorted(shards.items()))


def stays_inside(name: str) -> bool:
    """Whether a path that a file names lies below the file's folder, judged by its text alone."""
    path = PurePosixPath(name)
    return (
        0 < len(name) < 256
        and bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\0" not in name
    )


def read_file(path: Path, table: KeyTable) -> Tensors:
    """The tensors of a file by its suffix, by the keys in it. Raises UserError for a damaged file."""
    read: Callable[[], Tensors] = {
        ".safetensors": lambda: read_safetensors(path),
        ".bin": lambda: find_state(read_torch_zip(path), table, path),
    }.get(path.suffix)
    if read is None:
        what = f"unknown file type {path.suffix!r}: expected .safetensors or .bin"
        raise UserError(what, where=path, fix="give the published shards")
    return read()
