"""COMPILE and RUN: what executes a bundle's graphs. A backend is one file with an `open_bundle(bundle) -> Runtime` and one row."""

from ..bundle import Bundle
from ..registry import lookup
from .runtime import Runtime

BACKENDS = {
    "onnxruntime": ".backends.onnxruntime:open_bundle",
    "pytorch": ".backends.pytorch:open_bundle",
}


def open_runtime(bundle: Bundle, backend: str) -> Runtime:
    """The bundle's graphs, ready to run. Raises UserError for an unknown or missing backend."""
    return lookup(BACKENDS, backend, "backend", "--backend")(bundle)
