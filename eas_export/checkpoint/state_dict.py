"""Which tensors of a file are the model's, and what they are called in the published layout.

Whatever holds or wraps a model while it is trained puts its name before the keys, or into them: "module." (DistributedDataParallel),
"_orig_mod." (torch.compile), "base_model.model." (PEFT), or an attribute of the program, such as "model.". PEFT also puts the name of a LoRA
behind lora_A and lora_B, and "base_layer." before a weight that has one. Programs save the state dict
alone or as one entry among others. The key table of the model tells what belongs to it.
"""

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..core.errors import UserError
from ..core.record import quoted
from .keys import KeyTable
from .layouts import refuse_part, refuse_unsupported
from .lazy_tensor import LazyTensor
from .restricted_unpickler import Inert, PlainObject
from .torch_zip import read_torch_zip, state_dict_of

T = TypeVar("T")
# Inside a key: a wrapped part of the model. Before all of it they are prefixes like any other
WRAPPER = re.compile(
    r"(?<=\.)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.|(?<=\.lora_[AB]\.)[^.]+\.(?=weight$)"
)
NUMBER = re.compile(r"\.(?:\d+|\{\w+\})(?=\.|$)")
TORCH = (".pth", ".pt", ".ckpt", ".bin")
ALONE = "save the state dict of one model alone: torch.save(model.state_dict(), FILE)"


def read_state(
    path: Path, table: KeyTable, entry: str = "", unknown: type[PlainObject] | None = None
) -> tuple[dict[str, LazyTensor], Any]:
    """A torch file's tensors by their published names, and everything that it holds (see torch_zip.read_torch_zip).

    entry  where the published code keeps them, "" for the file itself; others are looked for, too

    Raises UserError where no tensors fit the table, several state dicts do, or names are not told (see published_names).
    """
    refuse_part(path)
    saved = read_torch_zip(path, unknown)
    return fit(find_state(saved, table, path, entry), table, path), saved


def find_state(saved: Any, table: KeyTable, path: Path, entry: str = "") -> dict[str, LazyTensor]:
    """The tensors of the model among what a torch file holds, by their keys in the file. Raises UserError as read_state does."""
    parts, layout = _parts(saved, path), _Layout(table)
    fitting = [name for name, tensors in parts.items() if layout.prefixes(tensors)]
    if len(fitting) > 1 and entry not in fitting:
        named = " and ".join(quoted(name) if name else "the file itself" for name in fitting)
        what = f"the file holds {len(fitting)} state dicts that fit: {named}"
        raise UserError(what, where=path, fix=ALONE)
    if not parts:
        raise UserError("the checkpoint has no named tensors", where=path, fix="give a file with a state dict")
    return parts[entry] if entry in fitting else parts[next(iter(fitting or parts))]


def holds(path: Path, table: KeyTable) -> bool:
    """Whether any state dict of a torch file has keys of the table. Raises UserError for a damaged file."""
    layout, parts = _Layout(table), _parts(read_torch_zip(path, Inert), path)
    return any(layout.prefixes(tensors) for tensors in parts.values())


def keys_of(path: Path) -> tuple[str, ...]:
    """The keys that a torch file has; none for another file."""
    try:
        parts = _parts(read_torch_zip(path, Inert), path)
    except UserError:
        return ()
    return tuple(key for tensors in parts.values() for key in tensors)


def refuse_by_name(path: Path) -> None:
    """Raise UserError for a file or a folder that is known and not read: as refuse_part does, and where a torch file has the keys of a system
    that is not supported."""
    refuse_part(path)
    for file in sorted(each for each in path.glob("*") if each.suffix in TORCH) if path.is_dir() else [path]:
        refuse_unsupported(keys_of(file), file)


def first_unknown(keys: Iterable[str], table: KeyTable) -> str | None:
    """The first of the published names that no row of the table has."""
    layout = _Layout(table)
    return next((key for key in keys if not layout.fits(key)), None)


def fit(tensors: Mapping[str, T], table: KeyTable, where: object) -> dict[str, T]:
    """The tensors by their published names. Raises UserError as published_names does."""
    names = published_names(tensors, table, where)
    return {names[key]: tensor for key, tensor in tensors.items()}


def published_names(keys: Iterable[str], table: KeyTable, where: object) -> dict[str, str]:
    """Key -> its name in the published layout: without wrappers inside, and without the prefix of all that have the names of the table's
    rows. Keys that fit as they are stay so.

    Raises UserError where no prefix makes the keys fit, only some have one, or two become one, and for a system that is not supported.
    """
    layout = _Layout(table)
    unwrapped = {key: layout.unwrapped(key) for key in keys}
    refuse_unsupported(unwrapped, where)
    prefixes = layout.prefixes(unwrapped)
    if not prefixes and unwrapped:
        what = f"the keys are not those of this model: the first of {len(unwrapped)} is {quoted(next(iter(unwrapped)))}, expected are keys such as {layout.example}"
        raise UserError(what, where=where, fix="check that the file is the right one, and whole")
    prefix = _commonest(prefixes)
    names: dict[str, str] = {}
    first: dict[str, str] = {}  # name -> key; prefix -> the first key that has it
    for key, name in unwrapped.items():
        names[key], own = name.removeprefix(prefix), layout.prefix(name)
        if own is not None and (own == prefix or not layout.fits(names[key])):
            first.setdefault(own, key)
    if others := [key for own, key in first.items() if own != prefix]:
        what = f"the keys have different prefixes, only some have one, or one is unknown: {quoted(first[prefix])} and {quoted(others[0])}; expected are keys such as {layout.example}"
        raise UserError(what, where=where, fix=ALONE)
    once: dict[str, str] = {}
    for key, name in names.items():
        if (other := once.setdefault(name, key)) != key:
            raise UserError(
                f"{quoted(other)} and {quoted(key)} are one key of the model, {quoted(name)}", where=where, fix=ALONE
            )
    return names


def _parts(saved: Any, path: Path) -> dict[str, dict[str, LazyTensor]]:
    """Entry -> its tensors, "" for those of the file itself; only where there are any."""
    entries = saved.items() if isinstance(saved, dict) else ()
    parts = {"": saved} | {name: part for name, part in entries if isinstance(name, str) and isinstance(part, dict)}
    return {name: tensors for name, part in parts.items() if (tensors := state_dict_of(part, path))}


def _commonest(prefixes: Counter[str]) -> str:
    """None, where any keys fit without, or the most frequent."""
    return "" if "" in prefixes else max(prefixes, key=prefixes.__getitem__, default="")


class _Layout:
    """The keys of a table, blocks of any number."""

    def __init__(self, table: KeyTable):
        patterns = [pattern for pattern, key in table.items() if key]
        self.rows = set(map(_template, patterns))
        self.dropped = [pattern for pattern, key in table.items() if key is None]
        self.longest = max(row.count(".") for row in self.rows) + 1  # names in a row
        self.example = re.sub(r"{\w+}", "0", patterns[0])

    def fits(self, name: str) -> bool:
        return _template(name) in self.rows or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.dropped)

    def unwrapped(self, key: str) -> str:
        return key if _template(key) in self.rows else WRAPPER.sub("", key)

    def prefix(self, name: str) -> str | None:
        """What stands before the longest end of a name that is a row's; None if no end is."""
        parts = name.rsplit(".", self.longest)
        ends = (".".join(parts[start:]) for start in range(len(parts)))
        end = next((end for end in ends if _template(end) in self.rows), None)
        return None if end is None else name.removesuffix(end)

    def prefixes(self, keys: Iterable[str]) -> Counter[str]:
        """Prefix -> how many keys have a row's name behind it; none if most keys do not fit: other models have a norm.weight, too."""
        names = [self.unwrapped(key) for key in keys]
        own = [self.prefix(name) for name in names]
        found = Counter(prefix for prefix in own if prefix is not None)
        common = _commonest(found)
        fitting = sum(p is not None or self.fits(name.removeprefix(common)) for p, name in zip(own, names))
        return found if "" in found or 2 * fitting > len(names) else Counter()


def _template(name: str) -> str:
    """A key or a row's pattern without its numbers."""
    return NUMBER.sub(".#", name)
