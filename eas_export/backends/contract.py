"""The contract of a backend."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.bundle import Bundle
from ..bundle.manifest import Target
from ..core.options import BuildOptions
from ..core.record import Record

if TYPE_CHECKING:
    import torch

    from ..bundle.manifest import Made
    from ..bundle.store import Store
    from ..core.graph_spec import GraphSpec
    from ..core.progress import Progress
    from .runtime import Runtime


class Layer(Record):
    """One layer of a builder's network.

    kind  the builder's name for its type ("ATTENTION_INPUT")
    mask  of an attention: whether it has a mask for the slots to read
    """

    name: str
    kind: str
    mask: bool | None = None


class Health(Record):
    """version  of the backend's library, None if that is missing
    runs     whether it can run bundles on this machine
    status   what it can do on this machine, and how
    fix      how to install what is missing; empty if nothing is
    """

    version: str | None
    runs: bool
    status: str
    fix: str = ""


@dataclass(frozen=True)
class EnginePlan:
    """An engine to build.

    key    two engines with the same key, from the same files in `reads`, differ only by the builder's own choices
    reads  the bundle's files that go into it
    build  writes it to a path; raises UserError where the builder rejects the graph or runs out of memory
    """

    key: str
    reads: tuple[str, ...]
    build: "Callable[[Path, Progress], Made]"


@dataclass(frozen=True)
class Compiler:
    """How a backend builds engines.

    target  options -> the target that engines are built for; raises UserError where this machine cannot build any
    plan    (a graph's file, its spec, its store, target) -> its engine's plan; the files that it reads are in the file's folder
    layers  (a graph's file, its spec, its store) -> its layers as the builder parses them; raises UserError where it rejects the graph
    lacks   compute capability -> dtypes of which it builds no matrix products for such GPUs
    """

    target: Callable[[BuildOptions], Target]
    plan: "Callable[[Path, GraphSpec, Store, Target], EnginePlan]"
    layers: "Callable[[Path, GraphSpec, Store], list[Layer]]"
    lacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Backend:
    """How bundles are run.

    open               bundle -> Runtime with its graphs ready to run; raises UserError
    open_low_memory    low-memory variant of `open`, which may be slow: for verifying
    private_bytes      bundle -> the memory that its weights take when open, beside the mapped store
    health             whether and how it runs on this machine
    compiler           builds engines; None if graphs are run without
    open_instrumented  as open_low_memory, for a bundle of one graph with additional outputs; None if not supported
    open_on            (bundle, device) -> Runtime on that GPU; None if `open` runs on a GPU anyway
    """

    open: "Callable[[Bundle], Runtime]"
    open_low_memory: "Callable[[Bundle], Runtime]"
    private_bytes: Callable[[Bundle], int]
    health: Callable[[], Health]
    compiler: Compiler | None = None
    open_instrumented: "Callable[[Bundle], Runtime] | None" = None
    open_on: "Callable[[Bundle, torch.device], Runtime] | None" = None
