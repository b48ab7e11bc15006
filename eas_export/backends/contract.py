"""The contract a backend fills in."""

from collections.abc import Callable
from dataclasses import dataclass
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

    kind  the builder's name for what it does ("ATTENTION_INPUT")
    mask  of an attention: whether it is told which slots to read
    """

    name: str
    kind: str
    mask: bool | None = None


class Health(Record):
    """version  of what it runs on, None where that is missing
    runs     whether bundles can be run with it on this machine
    does     what it does on this machine, and how
    fix      how to get what is missing; empty where nothing is
    """

    version: str | None
    runs: bool
    does: str
    fix: str = ""


@dataclass(frozen=True)
class EnginePlan:
    """An engine that is to be built.

    key    two engines with the same key, from the same files in `reads`, are the same but for the builder's own choices
    reads  files of the bundle that hold what goes into it
    build  writes it to a path; raises UserError where the builder refuses the graph or runs out of memory
    """

    key: str
    reads: tuple[str, ...]
    build: "Callable[[Path, Progress], Made]"


@dataclass(frozen=True)
class Compiler:
    """How a backend builds engines.

    target  options -> what they are built for; raises UserError where this machine can build none
    plan    (a graph's file, its spec, its store, target) -> its engine; what it reads lies in the file's folder
    layers  (a graph's file, its spec, its store) -> its layers as the builder sees them; raises UserError where it refuses the graph
    """

    target: Callable[[BuildOptions], Target]
    plan: "Callable[[Path, GraphSpec, Store, Target], EnginePlan]"
    layers: "Callable[[Path, GraphSpec, Store], list[Layer]]"


@dataclass(frozen=True)
class Backend:
    """How bundles are run.

    open           bundle -> its graphs ready to run; raises UserError
    open_on        (bundle, a GPU) -> the same there; None where `open` runs on a GPU anyway
    open_low_memory  low-memory variant of `open`, which may be slow: for verifying
    private_bytes  bundle -> the memory that its weights take when it is open, beside the mapped store
    health         what it could do here
    compiler       None where graphs are run as they are
    open_instrumented  as open_low_memory, for a bundle of one graph with more outputs than its own; None where that cannot be
    """

    open: "Callable[[Bundle], Runtime]"
    open_low_memory: "Callable[[Bundle], Runtime]"
    private_bytes: Callable[[Bundle], int]
    health: Callable[[], Health]
    compiler: Compiler | None = None
    open_instrumented: "Callable[[Bundle], Runtime] | None" = None
    open_on: "Callable[[Bundle, torch.device], Runtime] | None" = None
