"""Either TensorRT as a row of the table of backends. What each part needs is imported when it is called."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...bundle.bundle import Bundle
from ...bundle.manifest import Target
from ...core.options import BuildOptions
from ..contract import Backend, Compiler, EnginePlan, Health, Layer
from .flavor import Flavour

if TYPE_CHECKING:
    from ...bundle.store import Store
    from ...core.graph_spec import GraphSpec
    from ..runtime import Runtime


def trt_backend(flavour: Flavour, target: Callable[[BuildOptions], Target]) -> Backend:
    def plan(path: Path, spec: "GraphSpec", store: "Store", target: Target) -> EnginePlan:
        from .build import plan_engine

        return plan_engine(flavour, path, spec, store, target)

    def layers(path: Path, spec: "GraphSpec", store: "Store") -> list[Layer]:
        from .build import list_layers

        return list_layers(flavour, path, spec, store)

    def open_engines(bundle: Bundle) -> "Runtime":
        from .session import open_engines

        return open_engines(flavour, bundle)

    def health() -> Health:
        from .session import health

        return health(flavour)

    return Backend(
        open=open_engines,
        open_sparing=open_engines,
        private_bytes=lambda bundle: 0,  # they are on the device
        health=health,
        compiler=Compiler(target, plan, layers),
    )
