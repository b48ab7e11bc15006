"""Does verification find what is wrong? Negative controls are known faults, each planted in a copy of a bundle, which is then verified as
the bundle is. Each must be found, in its layer; a verification that misses one proves nothing about sound bundles.

A new control is one row of a kind of network's CONTROLS (decoder_faults.py, cross_encoder_faults.py).
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from ..backends.runtime import CPU
from ..bundle.bundle import Bundle
from ..bundle.manifest import Manifest
from ..core.errors import InternalError, OutOfSpace
from ..core.progress import Progress
from ..export.derived_bundle import DerivedBundle
from ..networks import network_part
from ..system.scratch import scratch_folder
from .compare import DEFAULT_BACKEND, Request, compare_bundle
from .phrasing import block
from .report import ControlReport

STEPS = 8  # decode steps after the controls' own prompts


@dataclass(frozen=True)
class Place:
    """Where a fault is planted. graph: of several that read a weight, the one that runs first; part, layer: see report.BlockLine"""

    graph: str
    layer: int
    part: str = ""


@dataclass(frozen=True)
class Control:
    """A known fault.

    what    a description
    place   where the fault goes in a bundle, or why it does not apply
    edit    plants the fault: (copy, place)
    stages  stages of the layer that the fault may be located at
    """

    name: str
    what: str
    place: Callable[[Manifest], Place | str]
    edit: Callable[[DerivedBundle, Place], None]
    stages: tuple[str, ...]


def run_controls(bundle: Bundle, request: Request, progress: Progress) -> tuple[ControlReport, ...]:
    """Run every control, on ONNX Runtime on the CPU. The copies share unchanged files with the bundle, and are deleted afterwards.

    request  the bundle's own; it needs a checkpoint: only the right weights show that one is wrong
    """
    own = {"backends": (DEFAULT_BACKEND,), "require": (), "inputs": None, "steps": STEPS, "device": CPU}
    short = replace(request, **own, thorough=False)
    return tuple(_run(control, bundle, short, progress) for control in controls_of(bundle).values())


def not_planted(bundle: Bundle, reason: str) -> tuple[ControlReport, ...]:
    """Every control, with the reason why none was planted."""
    controls = controls_of(bundle).values()
    return tuple(ControlReport(name=control.name, what=control.what, why_not=reason) for control in controls)


def controls_of(bundle: Bundle) -> Mapping[str, Control]:
    """The controls of the bundle's kind of network, by name."""
    return network_part(bundle.manifest.config, "faults")


def plant(bundle: Bundle, control: Control, folder: Path) -> Bundle:
    """A copy of the bundle at `folder`, which must not exist, that is wrong only by the control's fault: its files match its manifest.
    Raises InternalError where the control does not apply."""
    place = control.place(bundle.manifest)
    if isinstance(place, str):
        raise InternalError(f"{control.name} does not apply: {place}")
    copy = DerivedBundle(bundle, folder)
    control.edit(copy, place)
    where = block(place.part, place.layer)
    return copy.seal(control.name, f"a fault was planted in {where} to test verification: {control.what}")


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
                what = f"a copy of the bundle cannot be written ({error.strerror})"
                raise OutOfSpace(what, where=folder, fix="free disk space, or leave --negative-controls out") from error
        found = compare_bundle(copy, request, progress).first_divergence
    here = vars(place)
    located = found is not None and all(getattr(found, name) == here[name] for name in here)
    return report.model_copy(update={**here, "found": found, "ok": located and found.stage in control.stages})


# Helpers for the faults of all kinds of networks


def transposed_weight(copy: DerivedBundle, name: str) -> None:
    """W [out, in], stored as if it were [in, out] and transposed: where it is square, W^T"""
    weight = copy.weight(name)
    copy.replace_weight(name, weight.reshape(weight.shape[::-1]).T.contiguous())


def named(graph: ir.Graph, values: Iterable[ir.Value], name: str) -> ir.Value:
    """Raises InternalError where none of the values has this name."""
    found = [value for value in values if value.name == name]
    if not found:
        raise unexpected(graph, f"there is no {name}")
    return found[0]


def given_by(graph: ir.Graph, module: str, *op_types: str) -> ir.Node:
    """The node whose output is that of a module ("layers.3.attention.q")."""
    return maker(graph, named(graph, (value for node in graph for value in node.outputs), module), *op_types)


def maker(graph: ir.Graph, value: ir.Value, *op_types: str) -> ir.Node:
    """The node that makes the value. Raises InternalError where it is none of these operators."""
    node = value.producer()
    if node is None or node.op_type not in op_types:
        raise unexpected(graph, f"{value.name} is made by {node and node.op_type}, not by {' or '.join(op_types)}")
    return node


def unexpected(graph: ir.Graph, what: str) -> InternalError:
    return InternalError(f"a fault cannot be planted in graph {graph.name}: {what}")
