"""The weight store: a valid safetensors file that every graph of a bundle points into (two in a bundle that shares another's).

Format (safetensors): 8 bytes little-endian header size, a JSON header {name: {dtype, shape, data_offsets}}, then the tensors
without gaps. The header is padded with spaces so that the data starts on a page, and tensors are ordered so that each starts
on a multiple of its alignment: mapped tensors can be used in place.
"""

import hashlib
import json
import mmap
import struct
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InternalError, UserError
from ..core.precision import DTYPES

if TYPE_CHECKING:
    import numpy as np
    import torch

PAGE = 4096
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit


@dataclass(frozen=True)
class Entry:
    """One tensor in a file of the store; `offset` counts bytes from the start of the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].size


@dataclass(frozen=True)
class Parameter:
    """A tensor to be written; `read` is called once, `source` names it in messages."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str
    read: "Callable[[], torch.Tensor]"

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].size


def write_store(path: Path, parameters: Iterable[Parameter], on_bytes: Callable[[int], None]) -> str:
    """Write the parameters, one in memory at a time. Returns the sha256 in hex of the bytes that were given to the file system: a file
    with another one was damaged while it was written. `on_bytes` is called with the size of each tensor that was written.

    Raises UserError where a tensor holds NaN or infinity.
    """
    # sizes with the largest power of two as a divisor first: without gaps, that aligns every tensor to its own
    ordered = sorted(parameters, key=lambda p: (-_alignment(p.nbytes), p.name))
    header, position = {}, 0
    for p in ordered:
        header[p.name] = {
            "dtype": DTYPES[p.dtype].safetensors,
            "shape": list(p.shape),
            "data_offsets": [position, position + p.nbytes],
        }
        position += p.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}} | header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % PAGE)
    digest = hashlib.sha256()
    with open(path, "wb") as file:

        def put(data: bytes | memoryview) -> None:
            file.write(data)
            digest.update(data)

        put(struct.pack("<Q", len(text)) + text)
        for p in ordered:
            put(_checked_bytes(p))
            on_bytes(p.nbytes)
    return digest.hexdigest()


class Store:
    """A weight store, mapped for reading; of a tensor in several files, the last file's is used. Raises UserError for a damaged file."""

    def __init__(self, *paths: Path):
        self._maps: dict[Path, mmap.mmap] = {}
        self.entries: dict[str, Entry] = {}
        for path in paths:
            self._maps[path], entries = _map(path)
            self.entries |= entries

    def view(self, name: str) -> memoryview:
        """A tensor's bytes in the mapped file."""
        entry = self.entries[name]
        return memoryview(self._maps[entry.file])[entry.offset : entry.offset + entry.nbytes]

    def array(self, name: str) -> "np.ndarray":
        """A read-only view of the mapped file."""
        import ml_dtypes  # noqa: F401  (numpy learns bfloat16 from it)
        import numpy as np

        entry = self.entries[name]
        return np.frombuffer(self.view(name), np.dtype(entry.dtype)).reshape(entry.shape)

    def tensor(self, name: str) -> "torch.Tensor":
        """A view of the mapped file. Do not write to it."""
        import torch

        entry = self.entries[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "the buffer is not writable": nobody writes to it
            flat = torch.frombuffer(
                self._maps[entry.file], dtype=getattr(torch, entry.dtype), count=prod(entry.shape), offset=entry.offset
            )
        return flat.view(entry.shape)

    def holds(self, name: str, tensor: "torch.Tensor") -> bool:
        """Whether the store has this very tensor by this name, to the bit."""
        import torch

        if name not in self.entries:
            return False
        own = self.tensor(name)
        if (own.dtype, own.shape) != (tensor.dtype, tensor.shape):
            return False
        return torch.equal(*(each.contiguous().flatten().view(torch.uint8) for each in (own, tensor)))

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values())


def _map(path: Path) -> tuple[mmap.mmap, dict[str, Entry]]:
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return mapped, _read_header(path, mapped)
    except FileNotFoundError:
        raise UserError("the bundle has no weights", where=path, fix="build it again with --force") from None
    except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        what = f"the file is not a whole safetensors file ({error})"
        raise UserError(what, where=path, fix="build the bundle again with --force") from error


def _read_header(path: Path, data: mmap.mmap) -> dict[str, Entry]:
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"header of {size} bytes")
    names = {row.safetensors: name for name, row in DTYPES.items()}
    entries = {}
    header = json.loads(data[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    for name, item in header.items():
        if name == "__metadata__":
            continue
        begin, end = item["data_offsets"]
        if any(type(n) is not int or n < 0 for n in (begin, end, *item["shape"])):
            raise ValueError(f"tensor {name} has an invalid shape or offset")
        entry = Entry(path, name, names[item["dtype"]], tuple(item["shape"]), 8 + size + begin)
        if end - begin != entry.nbytes or 8 + size + end > len(data):
            raise ValueError(f"tensor {name} does not fit its shape or the file")
        entries[name] = entry
    return entries


def _alignment(nbytes: int) -> int:
    """The largest power of two, up to a page, that divides the size."""
    return min(nbytes & -nbytes, PAGE) if nbytes else PAGE


def _checked_bytes(p: Parameter) -> memoryview:
    import torch

    tensor = p.read().contiguous()
    if tuple(tensor.shape) != p.shape or tensor.dtype != getattr(torch, p.dtype):
        raise InternalError(f"{p.name} is {tensor.dtype} {tuple(tensor.shape)}, expected {p.dtype} {p.shape}")
    if tensor.is_floating_point() and tensor.numel() and not all(torch.isfinite(b) for b in torch.aminmax(tensor)):
        too_large = "infinity" if p.dtype == "float32" else f"infinity, or values too large for {p.dtype}"
        kind = "NaN" if torch.isnan(tensor).any() else too_large
        what = f"tensor {p.name} holds {kind}"
        wider = "" if kind == "NaN" or p.dtype == "float32" else ", or build with --precision fp32"
        raise UserError(what, where=p.source, fix=f"copy the checkpoint again, or train it again{wider}")
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())
