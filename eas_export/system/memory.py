"""Turn out-of-memory errors, of the CPU or a GPU, into OutOfSpace. Estimates beforehand are build/estimate.py's."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..core.errors import InternalError, OutOfSpace, UserError

# The messages of torch, ONNX Runtime and TensorRT, in upper or lower case
OUT_OF_MEMORY = re.compile(r"out[ _]?of[ _]?memory|bad[ _]alloc|cannot allocate|allocate memory|MEM_ALLOC", re.I)
MORE_MEMORY = "end other programs, or use a machine or a GPU with more memory"


@contextmanager
def enough_memory(where: object, fix: str = MORE_MEMORY) -> Iterator[None]:
    """Raise OutOfSpace for an out-of-memory error."""
    try:
        yield
    except (UserError, InternalError):
        raise
    except Exception as error:  # the only base class that the errors of all bindings share
        message = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(message):
            raise
        raise OutOfSpace(f"out of memory ({message[:200]})", where=where, fix=fix) from error
