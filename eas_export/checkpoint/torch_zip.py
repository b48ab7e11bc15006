"""Reader for torch's zip format: files of `torch.save` and, for their tensors, TorchScript archives (OpenAI's CLIP files).

Format: a zip with stored (uncompressed) members <name>/data.pkl and <name>/data/<key>; the pickle refers to storages by
persistent ids ("storage", type, key, device, elements) and rebuilds tensors from (storage, offset, size, stride, ...).

Nothing that the file names is imported or called: names in the pickle are looked up in a table of stand-ins; any other name is an
error or, if the caller asks for it, an object that does nothing. Tensors stay in the mapped file until they are read.
"""

import io
import mmap
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..system.files import require_file
from .lazy_tensor import LazyTensor
from .quantised import refuse_pickled
from .restricted_unpickler import PlainObject, make_stand_ins, plain_class, require_plain_key

MAX_PICKLE_BYTES = 1 << 30  # optimizer states of real checkpoints take a few MB
MOST_AXES, LARGEST_SIZE = 64, 1 << 62  # torch counts in 64 bits
HASHED = {  # opcode -> the part of the stack that it uses as keys
    pickle.SETITEM: slice(-2, -1),
    pickle.SETITEMS: slice(0, None, 2),
    pickle.DICT: slice(0, None, 2),
    pickle.ADDITEMS: slice(None),
    pickle.FROZENSET: slice(None),
}


def read_torch_zip(path: Path, unknown: type[PlainObject] | None = None) -> Any:
    """The object saved in `path`: plain data, LazyTensors, and PlainObjects (argparse.Namespace, TorchScript modules).

    unknown  stand-in for any other class or function, for formats that carry the training program's own; None: an error

    Raises UserError for files that are truncated, damaged or of another format, and for any other class or function without `unknown`.
    """
    try:
        with zipfile.ZipFile(require_file(path)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                what = "the zip file is not a torch checkpoint (it has no data.pkl)"
                raise UserError(what, where=path, fix="give the file that torch.save wrote")
            prefix = pickles[0].removesuffix("data.pkl")
            if members[pickles[0]].file_size > MAX_PICKLE_BYTES or _is_compressed(members[pickles[0]]):
                what = "the checkpoint's data.pkl is compressed or larger than 1 GB"
                raise UserError(what, where=path, fix="give the file as torch.save wrote it")
            order = members.get(f"{prefix}byteorder")
            if order and not _is_compressed(order) and archive.read(order) != b"little":
                what = "the checkpoint's tensors are big-endian"
                raise UserError(what, where=path, fix="save it again on a little-endian machine")
            data = archive.read(pickles[0])
    except (
        zipfile.BadZipFile,
        EOFError,
        struct.error,
        OSError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        what = f"the file is not a whole torch checkpoint ({error or type(error).__name__})"
        fix = "copy the file again; a file from before torch 1.6 must be loaded and saved once with a newer torch"
        raise UserError(what, where=path, fix=fix) from None
    storages = _Storages(path, prefix, members)
    try:
        return _Reader(data, storages, unknown).load()
    except UserError:
        raise
    except Exception as error:  # any byte of the pickle may be wrong, so any exception may be raised
        what = f"the checkpoint's data.pkl is damaged ({type(error).__name__}: {error})"
        raise UserError(what, where=path, fix="copy the file again") from None


def _is_compressed(member: zipfile.ZipInfo) -> bool:
    """torch does not compress data; only the code in TorchScript archives is compressed, which is not read."""
    return member.compress_type != zipfile.ZIP_STORED


class _Storages:
    """The mapped file and the offset of each storage in it."""

    def __init__(self, path: Path, prefix: str, members: dict[str, zipfile.ZipInfo]):
        self.path, self.prefix, self.members = path, prefix, members
        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def locate(self, key: str, size: int) -> int:
        """The offset of storage `key` in the file. Raises UserError unless it has `size` bytes."""
        info = self.members.get(f"{self.prefix}data/{key}")
        if info is None or info.file_size < size or _is_compressed(info):
            what = f"storage {key} is missing, compressed or shorter than {size} bytes"
            raise UserError(what, where=self.path, fix="copy the file again")
        header = self.map[
            info.header_offset : info.header_offset + 30
        ]  # a zip member's local header: 30 bytes, name, extra
        name_size, extra_size = struct.unpack("<26xHH", header)
        offset = info.header_offset + 30 + name_size + extra_size
        if offset + size > len(self.map):
            raise UserError(f"storage {key} runs past the end of the file", where=self.path, fix="copy the file again")
        return offset

    def view(self, offset: int, dtype: torch.dtype, count: int) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "the buffer is not writable": nobody writes to a LazyTensor
            return torch.frombuffer(self.map, dtype=dtype, count=count, offset=offset)


def _hashing_plain_keys(opcode: bytes) -> Callable[["_Reader"], None]:
    load = pickle._Unpickler.dispatch[opcode[0]]

    def load_checked(reader: "_Reader") -> None:
        for key in reader.stack[HASHED[opcode]]:
            require_plain_key(key)
        load(reader)

    return load_checked


class _Reader(pickle._Unpickler):  # the Python one: its memo is a dict, so a hostile index cannot make it allocate
    """An unpickler that only finds stand-ins."""

    def __init__(self, data: bytes, storages: _Storages, unknown: type[PlainObject] | None):
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.storages, self.unknown = storages, unknown
        self.stand_ins = make_stand_ins(self._tensor)

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):  # a TorchScript module: its attributes are all we want
            return self.stand_ins.setdefault((module, name), plain_class("Module"))
        stand_in = self.stand_ins.get((module, name), self.unknown)
        if stand_in is None:
            refuse_pickled(f"{module}.{name}", self.storages.path)
            what = f"the pickle asks for {module}.{name}, which was not run"
            fix = "give a checkpoint of tensors and plain data; do not trust this file otherwise"
            raise UserError(what, where=self.storages.path, fix=fix)
        return stand_in

    dispatch = pickle._Unpickler.dispatch | {opcode[0]: _hashing_plain_keys(opcode) for opcode in HASHED}

    def load_build(self) -> None:
        """Set an object's attributes: those of a state dict are ignored; a tensor, or one of our classes and functions, is refused."""
        if isinstance(self.stack[-2], OrderedDict):
            self.stack.pop()
        elif isinstance(self.stack[-2], PlainObject):
            super().load_build()
        else:
            raise ValueError(f"attributes for a {type(self.stack[-2]).__name__}")

    dispatch[pickle.BUILD[0]] = load_build
    del dispatch[
        pickle.BYTEARRAY8[0]
    ]  # it allocates the size that the file claims before reading; torch does not write it

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, str, int]:
        kind, dtype, key, _device, count = pid
        if (
            kind != "storage"
            or not isinstance(dtype, torch.dtype)
            or not isinstance(key, str)
            or not isinstance(count, int)
        ):
            raise ValueError("an unknown persistent id")
        return dtype, key, count

    def _tensor(self, storage, offset: int, size: tuple, stride: tuple) -> LazyTensor:
        dtype, key, count = storage
        numbers = (offset, *size, *stride)
        fits = len(size) == len(stride) <= MOST_AXES
        if not fits or any(type(n) is not int or not 0 <= n < LARGEST_SIZE for n in numbers):
            raise ValueError("a tensor with an invalid size or stride")
        extent = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride))
        if offset + extent > count or prod(size) > count or prod(n or 1 for n in size) >= LARGEST_SIZE:
            raise ValueError(f"a tensor of size {size} runs past its storage of {count} elements")
        width = torch.empty((), dtype=dtype).element_size()
        start = self.storages.locate(key, count * width) + offset * width
        view = self.storages.view

        def read() -> torch.Tensor:
            return view(start, dtype, extent).as_strided(size, stride) if extent else torch.empty(size, dtype=dtype)

        return LazyTensor(tuple(size), dtype, f"{self.storages.path.name}", read)


def state_dict_of(saved: Any, path: Path) -> dict[str, LazyTensor]:
    """The named tensors of an object from `read_torch_zip`: of a state dict, or a TorchScript module's attributes by dotted name. None of
    the dicts in it are searched (see state_dict.find_state)."""
    tensors: dict[str, LazyTensor] = {}
    waiting, seen = [("", vars(saved) if isinstance(saved, PlainObject) else saved)], set()
    while waiting:
        prefix, values = waiting.pop()
        if not isinstance(values, dict) or id(values) in seen:  # an object may refer to itself
            continue
        seen.add(id(values))
        for name, value in values.items():
            if not isinstance(name, str):
                continue
            if isinstance(value, LazyTensor):
                key = f"{prefix}{name}"
                tensors[key] = LazyTensor(value.shape, value.dtype, f"{path.name}: {key}", value.read)
            elif isinstance(value, PlainObject):
                waiting.append((f"{prefix}{name}.", vars(value)))
    return tensors
