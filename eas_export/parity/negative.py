"""Does verification find what is wrong? Known faults, each planted in a copy of the bundle, which is then verified as the bundle is."""

import tempfile
from dataclasses import replace
from pathlib import Path

from ..bundle import Bundle
from ..progress import Progress
from ..scratch import scratch_folder
from .compare import DEFAULT_BACKEND, Request, compare_bundle
from .controls import CONTROLS, Control, plant
from .report import ControlReport


def run_controls(bundle: Bundle, request: Request, progress: Progress) -> tuple[ControlReport, ...]:
    """Every control, on ONNX Runtime. The copies share what they do not change with the bundle, and are gone afterwards.

    request  the bundle's own; with a checkpoint, for a wrong weight is only wrong beside the right one
    """
    short = replace(request, backends=(DEFAULT_BACKEND,), require=(), thorough=False)
    return tuple(_run(control, bundle, short, progress) for control in CONTROLS.values())


def _run(control: Control, bundle: Bundle, request: Request, progress: Progress) -> ControlReport:
    place = control.place(bundle.manifest)
    report = ControlReport(name=control.name, what=control.what)
    if isinstance(place, str):
        return report.model_copy(update={"why_not": place})
    with tempfile.TemporaryDirectory(dir=scratch_folder(bundle.path), prefix=".control-") as folder:
        with progress.stage(f"planting a fault: {control.name}"):
            copy = plant(bundle, control, Path(folder) / "copy")
        found = compare_bundle(copy, request, progress).first_divergence
    located = found is not None and found.layer == place.layer and found.stage in control.stages
    return report.model_copy(update={"graph": place.graph, "layer": place.layer, "found": found, "ok": located})
