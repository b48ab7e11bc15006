"""Tensors too large for memory, in temporary files."""

import os
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import OutOfSpace

LARGE = 1 << 20  # bytes


def scratch_folder(bundle: Path) -> Path:
    """The folder beside the bundle, whose disk has the space; the system's temporary folder where that is not writable."""
    beside = bundle.absolute().parent
    return beside if os.access(beside, os.W_OK) else Path(tempfile.gettempdir())


class Scratch:
    """Allocates tensors, large ones in unnamed files in `folder`, which disappear however the process ends."""

    def __init__(self, folder: Path):
        self.folder = folder

    def empty(self, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As torch.empty; a large tensor is a mapped file, which the system writes out when memory is short. Raises OutOfSpace
        where the disk is full."""
        count = prod(sizes)
        if count * dtype.itemsize < LARGE:
            return torch.empty(sizes, dtype=dtype)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                # otherwise a full disk would be a signal later on
                os.posix_fallocate(file.fileno(), 0, count * dtype.itemsize)
                name = f"/proc/self/fd/{file.fileno()}"
                return torch.from_file(name, shared=True, size=count, dtype=dtype).view(*sizes)
        except OSError as error:
            what = f"cannot allocate {count * dtype.itemsize / 1e9:.2f} GB of scratch files ({error.strerror})"
            raise OutOfSpace(what, where=self.folder, fix="free some space, or move the bundle elsewhere") from None
