"""Published keys to our names, with proof that no tensor is missing, unknown or of the wrong shape."""

import fnmatch
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import reduce

import torch

from ..core.errors import UserError
from ..core.record import quoted
from .layouts import LORA_PART, MERGE_LORA
from .lazy_tensor import LazyTensor, combine
from .quantised import require_floats

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Key:
    """Our name and form of a published tensor.

    name     our name; "{i}" is the block's number
    shape    of the published, unsharded tensor: numbers, names of sizes, or products of them ("2*dim")
    shard    the dimension along which model-parallel shards are joined; None: every shard has all of it
    convert  from the published layout to ours; becomes: its result's shape
    """

    name: str
    shape: tuple[int | str, ...]
    shard: int | None = None
    convert: Callable[[torch.Tensor], torch.Tensor] | None = None
    becomes: tuple[int | str, ...] = ()


# Published pattern -> Key, or None for a key that is dropped on purpose ("*" matches anything). "{i}" stands for a block's number, any
# other word in braces for the number of a block of that group; our names have "{i}"
KeyTable = Mapping[str, Key | None]


def rename(
    tensors: Mapping[str, LazyTensor],
    table: KeyTable,
    sizes: Sizes,
    blocks: int,
    file: str,
    groups: Mapping[str, Collection[int]] | None = None,
) -> dict[str, LazyTensor]:
    """The tensors under our names.

    blocks  number of blocks: each must have the rows with "{i}"
    groups  name -> numbers of some of the blocks: these must have the rows with "{name}" in place of "{i}"

    Raises UserError, with the key, the file and the expected shape, for a key that is missing, unknown or of another shape, and for
    quantised weights.
    """
    wanted = _rows(table, blocks, groups or {})
    dropped = [pattern for pattern, key in table.items() if key is None]
    used = {
        key: tensor
        for key, tensor in tensors.items()
        if key in wanted or not any(fnmatch.fnmatchcase(key, pattern) for pattern in dropped)
    }
    require_floats(used, file, wanted)
    for key in used:
        if key not in wanted:
            what = f"unknown key {quoted(key)} of shape {list(tensors[key].shape)}"
            if LORA_PART in key:
                raise UserError(f"{what}: this part of a LoRA is not supported", where=file, fix=MERGE_LORA)
            fix = f"check that the file belongs to this model of {blocks} blocks{_nearest(key, wanted)}"
            raise UserError(what, where=file, fix=fix)
    renamed = {}
    for published, (key, i) in wanted.items():
        expected = tuple(_size(size, sizes) for size in key.shape)
        if published not in tensors:
            what = f"missing key {published}, expected with shape {list(expected)}"
            raise UserError(what, where=file, fix="check that the file is whole and belongs to this model")
        tensor = tensors[published]
        if tensor.shape != expected:
            what = f"key {published} has shape {list(tensor.shape)}, expected {list(expected)}"
            raise UserError(what, where=file, fix="check that the files belong together")
        if key.convert:
            tensor = tensor.map(key.convert, [_size(size, sizes) for size in key.becomes])
        renamed[key.name.replace("{i}", str(i))] = tensor
    return renamed


def expected_shapes(
    table: KeyTable, sizes: Sizes, blocks: int, groups: Mapping[str, Collection[int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Published key -> shape, of all tensors that `rename` needs."""
    rows = _rows(table, blocks, groups or {}).items()
    return {published: tuple(_size(size, sizes) for size in key.shape) for published, (key, _) in rows}


def _rows(table: KeyTable, blocks: int, groups: Mapping[str, Collection[int]]) -> dict[str, tuple[Key, int]]:
    """Every key that is needed, with its row and its block's number, 0 for a key outside the blocks."""
    members, wanted = {"i": range(blocks)} | dict(groups), {}
    for pattern, key in table.items():
        if key and (place := re.search(r"{(\w+)}", pattern)):
            wanted |= {pattern.replace(place[0], str(i)): (key, i) for i in members[place[1]]}
        elif key:
            wanted[pattern] = (key, 0)
    return wanted


def require(tensors: Mapping[str, LazyTensor], key: str, rank: int, file: str) -> tuple[int, ...]:
    """The shape of a tensor, from which sizes are read. Raises UserError when it is missing or not of this rank."""
    if key not in tensors:
        others = f" (the file has {quoted(next(iter(tensors)))} and {len(tensors) - 1} more)" if tensors else ""
        raise UserError(f"missing key {key}{others}", where=file, fix="check that the file is the right one, and whole")
    if len(tensors[key].shape) != rank or 0 in tensors[key].shape:
        what = f"key {key} has shape {list(tensors[key].shape)}, expected {rank} sizes above 0"
        raise UserError(what, where=file, fix="check that the file belongs to this model")
    return tensors[key].shape


def merge_shards(shards: list[dict[str, LazyTensor]], table: KeyTable, files: list[str]) -> dict[str, LazyTensor]:
    """Join model-parallel shards, each tensor along its row's `shard` dimension."""
    if len(shards) == 1:
        return shards[0]
    merged = {}
    for key in shards[0]:
        row = table.get(re.sub(r"\.\d+\.", ".{i}.", key))
        for shard, file in zip(shards, files):
            if key not in shard:
                what = f"missing key {quoted(key)}, which {files[0]} has"
                raise UserError(what, where=file, fix="give all shards of one model")
        if row is None or row.shard is None:
            merged[key] = shards[0][key]
        else:
            merged[key] = _join([shard[key] for shard in shards], row.shard, key)
    return merged


def _join(parts: list[LazyTensor], dim: int, key: str) -> LazyTensor:
    shape = list(parts[0].shape)
    around = {(len(part.shape), *part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}
    if len(shape) <= dim or len(around) > 1:
        what = f"the shards of {key} have shapes {[list(p.shape) for p in parts]}, which do not join along {dim}"
        raise UserError(what, where=parts[0].source, fix="give all shards of one model")
    shape[dim] = sum(part.shape[dim] for part in parts)
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    return combine(parts, lambda *tensors: torch.cat(tensors, dim), shape, dtype)


def _size(size: int | str, sizes: Sizes) -> int:
    if isinstance(size, int):
        return size
    product = 1
    for factor in size.split("*"):
        product *= int(factor) if factor.isdigit() else sizes[factor]
    return product


def _nearest(key: str, wanted: Mapping) -> str:
    import difflib

    close = difflib.get_close_matches(key, list(wanted), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def count_blocks(tensors: Mapping[str, LazyTensor], start: str) -> int:
    """The number of blocks, from keys such as "<start>.3.norm.weight"."""
    numbers = [int(m[1]) for key in tensors if (m := re.match(re.escape(start) + r"\.(\d{1,4})\.", key))]
    return 1 + max(numbers, default=-1)
