"""Out of memory, on the CPU or a GPU: recognised in what libraries say, and raised as NoRoom in our words. What is refused
beforehand: build/estimate.py."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..core.errors import InternalError, NoRoom, UserError

# What torch, ONNX Runtime and TensorRT say then, in any case
OUT_OF_MEMORY = re.compile(r"out[ _]?of[ _]?memory|bad[ _]alloc|cannot allocate|allocate memory|MEM_ALLOC", re.I)
MORE_MEMORY = "end other programs, or use a machine or a GPU with more memory"


@contextmanager
def enough_memory(where: object, fix: str = MORE_MEMORY) -> Iterator[None]:
    """Raise NoRoom for an error that says that there is no memory left."""
    try:
        yield
    except (UserError, InternalError):
        raise
    except Exception as error:  # the classes of bindings' errors have no common base but this
        said = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(said):
            raise
        raise NoRoom(f"the memory does not suffice ({said[:200]})", where=where, fix=fix) from error
