"""eas-export: take a trained EAS model from its checkpoint to a verified bundle.

    import eas_export
    result = eas_export.build("data/", "lavin-7b.bundle", precision="fp16")
    report = eas_export.verify("lavin-7b.bundle", "data/")
    model = eas_export.open_model("lavin-7b.bundle")

The commands are functions, too: build, verify, bench, run, search, inspect, check, doctor. Heavy packages are imported on first use.
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.12.0"

_PUBLIC = {
    "build": ".pipeline:build",
    "verify": ".pipeline:verify",
    "bench": ".bench.run:bench",
    "run": ".generation.text_model:run",
    "search": ".search.pipeline:search",
    "inspect": ".inspect:inspect",
    "check": ".backends.checking:check",
    "doctor": ".doctor:doctor",
    "open_bundle": ".bundle.bundle:open_bundle",
    "open_runtime": ".backends.opening:open_runtime",
    "open_model": ".generation.text_model:open_model",
    "open_pair_model": ".generation.pair_model:open_pair_model",
    "Progress": ".core.progress:Progress",
    "Question": ".families.processing.question:Question",
    "Sampling": ".generation.sampling:Sampling",
    "UserError": ".core.errors:UserError",
    "InternalError": ".core.errors:InternalError",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name].split(":")
    return getattr(import_module(module, __name__), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps public functions in place of folders of the same name (`bench`): importing a submodule would bind it on this package."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
