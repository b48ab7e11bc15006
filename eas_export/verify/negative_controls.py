"""Does verification find what is wrong? Known faults, each planted in a copy of the bundle, which is then verified as the bundle is."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..backends.runtime import CPU
from ..bundle.bundle import Bundle
from ..core.errors import NoRoom
from ..core.progress import Progress
from ..networks import network_part
from ..system.scratch import scratch_folder
from .compare import DEFAULT_BACKEND, Request, compare_bundle
from .controls import Control, plant
from .report import ControlReport

STEPS = 8  # fed after the controls' own prompts


def run_controls(bundle: Bundle, request: Request, progress: Progress) -> tuple[ControlReport, ...]:
    """Every control, on ONNX Runtime on the CPU. The copies share what they do not change with the bundle, and are gone afterwards.

    request  the bundle's own; with a checkpoint, for a wrong weight is only wrong beside the right one
    """
    own = {"backends": (DEFAULT_BACKEND,), "require": (), "inputs": None, "steps": STEPS, "device": CPU}
    short = replace(request, **own, thorough=False)
    return tuple(_run(control, bundle, short, progress) for control in controls_of(bundle).values())


def not_planted(bundle: Bundle, reason: str) -> tuple[ControlReport, ...]:
    """Every control, with the reason why none was tried."""
    controls = controls_of(bundle).values()
    return tuple(ControlReport(name=control.name, what=control.what, why_not=reason) for control in controls)


def controls_of(bundle: Bundle) -> Mapping[str, Control]:
    """The bundle's kind of network's, by name."""
    return network_part(bundle.manifest.config, "faults")


def _run(control: Control, bundle: Bundle, request: Request, progress: Progress) -> ControlReport:
    place = control.place(bundle.manifest)
    report = ControlReport(name=control.name, what=control.what)
    if isinstance(place, str):
        return report.model_copy(update={"why_not": place})
    with tempfile.TemporaryDirectory(dir=scratch_folder(bundle.path), prefix=".control-") as folder:
        with progress.stage(f"planting a fault: {control.name}"):
            try:
                copy = plant(bundle, control, Path(folder) / "copy")
            except OSError as error:
                what = f"a copy cannot be written there ({error.strerror})"
                raise NoRoom(what, where=folder, fix="make room, or leave --negative-controls out") from error
        found = compare_bundle(copy, request, progress).first_divergence
    here = vars(place)
    located = found is not None and all(getattr(found, name) == here[name] for name in here)
    return report.model_copy(update={**here, "found": found, "ok": located and found.stage in control.stages})
