"""Running out of memory, said as what it is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..core.errors import NoRoom


@contextmanager
def enough_memory(where: object, fix: str) -> Iterator[None]:
    """Raise NoRoom where there is none left, on the CPU or a GPU, however torch says so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in said:
            raise
        raise NoRoom(f"the memory does not suffice ({said})", where=where, fix=fix) from error
