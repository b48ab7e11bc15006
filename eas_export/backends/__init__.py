"""COMPILE and RUN: the backends that execute a bundle's graphs. A backend is one file that defines a `Backend`, one row here, and an extra
in setup.py with its packages.

Light on purpose: --help and the process that builds an engine import this package, and neither needs torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.registry import lookup
from .contract import Backend


@dataclass(frozen=True)
class BackendRow:
    """What is known about a backend before it is imported.

    place     ".module:attribute" of its Backend
    runs      the bundle's graphs, engines built from them (then it has a Compiler), or the modules that they were recorded from
    packages  the alternative distributions that it runs on; one is enough
    """

    place: str
    runs: Literal["graphs", "engines", "modules"]
    packages: tuple[str, ...]


BACKENDS = {
    "onnxruntime": BackendRow(".backends.onnxruntime.cpu:ONNXRUNTIME", "graphs", ("onnxruntime", "onnxruntime-gpu")),
    "pytorch": BackendRow(".backends.pytorch:PYTORCH", "modules", ("torch",)),
    "tensorrt-rtx": BackendRow(".backends.tensorrt.tensorrt_rtx:TENSORRT_RTX", "engines", ("tensorrt-rtx",)),
    "tensorrt": BackendRow(".backends.tensorrt.tensorrt:TENSORRT", "engines", ("tensorrt",)),
}


def get_backend(name: str) -> Backend:
    """The backend of this name. Raises UserError for an unknown one."""
    return lookup({known: row.place for known, row in BACKENDS.items()}, name, "backend", "--backend")


def backends_that_run(*what: str) -> Mapping[str, BackendRow]:
    """The backends that run "graphs", "engines" or "modules"."""
    return {name: row for name, row in BACKENDS.items() if row.runs in what}


def for_bundles() -> Mapping[str, BackendRow]:
    """The backends that a bundle can be built for: those that run its files."""
    return backends_that_run("graphs", "engines")
