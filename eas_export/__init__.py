"""eas-export: take a trained EAS model from its checkpoint to a verified engine.

    import eas_export
    result = eas_export.build("data/", "lavin-7b.bundle", precision="fp16")
    report = eas_export.verify("lavin-7b.bundle", "data/")
    model = eas_export.open_model("lavin-7b.bundle")

Nothing heavy is imported before it is used.
"""

from importlib import import_module

__version__ = "0.7.0"

_PUBLIC = {
    "build": ".pipeline",
    "verify": ".pipeline",
    "bench": ".speed.bench",
    "open_bundle": ".bundle",
    "open_runtime": ".backends.opening",
    "open_model": ".text",
    "Question": ".question",
    "Sampling": ".sampling",
    "UserError": ".errors",
    "InternalError": ".errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
