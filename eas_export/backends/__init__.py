"""COMPILE and RUN: what executes a bundle's graphs. A backend is one file with an `open_bundle(bundle) -> Runtime` and one row."""

from ..bundle import Bundle
from ..errors import UserError
from ..export.graphs import FOLD_MODES
from ..precision import PRECISIONS
from ..registry import lookup
from .runtime import Runtime

BACKENDS = {
    "onnxruntime": ".backends.onnxruntime:open_bundle",
    "pytorch": ".backends.pytorch:open_bundle",
}


def open_runtime(bundle: Bundle, backend: str) -> Runtime:
    """The bundle's graphs, ready to run. Raises UserError for an unknown or missing backend, and for a manifest whose graphs are
    not those that this version makes of its config."""
    m = bundle.manifest
    specs = {n: g.spec(m.config, m.plan, PRECISIONS[m.precision], m.limits) for n, g in FOLD_MODES[m.fold].items()}
    if specs != m.graphs:
        raise UserError("its graphs are not those of its config", where=bundle.path, fix="build it again with --force")
    return lookup(BACKENDS, backend, "backend", "--backend")(bundle)
