"""COMPILE and RUN: what executes a bundle's graphs. A backend is one file that ends in a `Backend`, and one row.

Light on purpose: the process that builds an engine imports this package, and needs no torch.
"""

from ..core.registry import lookup
from .contract import Backend

BACKENDS = {
    "onnxruntime": ".backends.onnxruntime.cpu:ONNXRUNTIME",
    "pytorch": ".backends.pytorch:PYTORCH",
    "tensorrt": ".backends.tensorrt.tensorrt:TENSORRT",
    "tensorrt-rtx": ".backends.tensorrt.tensorrt_rtx:TENSORRT_RTX",
}


def get_backend(name: str) -> Backend:
    """Raises UserError for a name that is none."""
    return lookup(BACKENDS, name, "backend", "--backend")
