"""Tensors too large for memory, in files that are gone when they are."""

import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

LARGE = 1 << 20  # bytes


class Scratch:
    """Where the tensors go that it makes: files in `folder` without a name, so that nothing of them stays, however the process ends."""

    def __init__(self, folder: Path):
        self.folder = folder

    def empty(self, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As torch.empty; a large tensor is a mapped file, which the system writes out when memory gets short."""
        if prod(sizes) * dtype.itemsize < LARGE:
            return torch.empty(sizes, dtype=dtype)
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:
            return torch.from_file(file.name, shared=True, size=prod(sizes), dtype=dtype).view(*sizes)
