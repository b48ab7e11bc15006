"""Does verification find what is wrong? Known faults, each planted in a copy of the bundle, which is then verified as the bundle is."""

import tempfile
from dataclasses import replace
from pathlib import Path

from ..bundle import Bundle
from ..errors import NoRoom
from ..progress import Progress
from ..scratch import scratch_folder
from .compare import DEFAULT_BACKEND, Request, compare_bundle
from .controls import CONTROLS, Control, plant
from .report import ControlReport

STEPS = 8  # fed after the controls' own prompts


def run_controls(bundle: Bundle, request: Request, progress: Progress) -> tuple[ControlReport, ...]:
    """Every control, on ONNX Runtime. The copies share what they do not change with the bundle, and are gone afterwards.

    request  the bundle's own; with a checkpoint, for a wrong weight is only wrong beside the right one
    """
    short = replace(request, backends=(DEFAULT_BACKEND,), require=(), inputs=None, steps=STEPS, thorough=False)
    return tuple(_run(control, bundle, short, progress) for control in CONTROLS.values())


def not_planted(reason: str) -> tuple[ControlReport, ...]:
    """Every control, with the reason why none was tried."""
    return tuple(ControlReport(name=control.name, what=control.what, why_not=reason) for control in CONTROLS.values())


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
    located = (
        found is not None and (found.graph, found.layer) == (place.graph, place.layer) and found.stage in control.stages
    )
    return report.model_copy(update={"graph": place.graph, "layer": place.layer, "found": found, "ok": located})
