"""Tensors too large for memory, in files that are gone when they are."""

import os
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from .errors import UserError

LARGE = 1 << 20  # bytes


class Scratch:
    """Where the tensors go that it makes: files in `folder` without a name, so that nothing of them stays, however the process ends."""

    def __init__(self, folder: Path):
        self.folder = folder

    def empty(self, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As torch.empty; a large tensor is a mapped file, which the system writes out when memory gets short. Raises UserError
        where the disk has no room for it."""
        count = prod(sizes)
        if count * dtype.itemsize < LARGE:
            return torch.empty(sizes, dtype=dtype)
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(
                    file.fileno(), 0, count * dtype.itemsize
                )  # or a full disk would be a signal later on
                return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(*sizes)
        except OSError as error:
            what = f"{count * dtype.itemsize / 1e9:.2f} GB of scratch cannot be had there ({error.strerror})"
            raise UserError(what, where=self.folder, fix="make room, or move the bundle to another disk") from None
