"""Negative controls of verification: known faults, each planted in a copy of a bundle. Verification must find each of them, and name
its layer; if it does not, what it says of sound bundles is worth nothing.

A new control is one row of CONTROLS: where it goes, and a function in faults.py that does it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bundle.bundle import Bundle
from ..bundle.manifest import Manifest
from ..core.errors import InternalError
from ..export.derived_bundle import DerivedBundle
from ..networks.decoder.modules import KeptBlock, SkippedBlock
from . import faults
from .words import block

FOLDS = tuple(f"fold of {part}.{kind}" for part in KeptBlock.folds + SkippedBlock.folds for kind in ("weight", "bias"))


@dataclass(frozen=True)
class Place:
    """Where a fault is planted; of a weight that several graphs read, the one that runs first. part, layer: see report.BlockLine"""

    graph: str
    layer: int
    part: str = ""


@dataclass(frozen=True)
class Control:
    """A known fault.

    what    it is, in words
    place   where it goes in such a bundle, or why it does not apply
    edit    (copy, place) plants it
    stages  by which of the layer's stages verification may locate it
    """

    name: str
    what: str
    place: Callable[[Manifest], Place | str]
    edit: Callable[[DerivedBundle, Place], None]
    stages: tuple[str, ...]


def plant(bundle: Bundle, control: Control, folder: Path) -> Bundle:
    """A copy of the bundle at `folder`, which must not exist, with nothing wrong in it but the control's fault: every file is the
    manifest's. Raises InternalError where the control does not apply."""
    place = control.place(bundle.manifest)
    if isinstance(place, str):
        raise InternalError(f"{control.name} does not apply: {place}")
    copy = DerivedBundle(bundle, folder)
    control.edit(copy, place)
    return copy.seal(
        control.name, f"a fault was planted in {block(place.part, place.layer)} to see it found: {control.what}"
    )


def _in_fold(m: Manifest) -> Place | str:
    if "fold" not in m.graphs:
        return f"fold mode {m.fold} has no fold graph"
    return Place("fold", _middle(m.plan.kept or m.plan.skipped))


def _where_routers_are_used(m: Manifest) -> Place | str:
    if m.precision != "fp32":
        return f"1 % of a router weight moves less than what {m.precision} is allowed to round"
    if m.fold == "none":
        return "there are no routers"
    return Place("fold" if "fold" in m.graphs else "decode", _middle(range(m.plan.sites)))


def _in_prompt(m: Manifest) -> Place | str:
    if m.limits.max_prompt < 2:
        return "with one token at a time nobody sees a query"
    return Place("prefill", _middle(m.plan.kept or m.plan.skipped))


def _in_kept_decode(m: Manifest) -> Place | str:
    return Place("decode", _middle(m.plan.kept)) if m.plan.kept else "no layer keeps its attention"


def _middle(layers: Sequence[int]) -> int:
    return layers[len(layers) // 2]


CONTROLS = {
    control.name: control
    for control in (
        Control(
            "published bias",
            "a folded bias is computed from the weight that was just folded, as the published code does, instead of from the original",
            _in_fold,
            lambda copy, place: faults.bias_from_folded_weight(copy, place.graph, place.layer),
            ("fold of ffn.gate.bias", "fold of attention.q.bias"),
        ),
        Control(
            "router weights off by 1 %",
            "a layer's frozen router weights are 1 % too large where they are used",
            _where_routers_are_used,
            lambda copy, place: faults.scaled_router(copy, place.graph, place.layer),
            (*FOLDS, "adapter"),
        ),
        Control(
            "transposed weight",
            "a linear layer's weight is stored transposed",
            _in_prompt,
            lambda copy, place: faults.transposed_weight(copy, place.graph, place.layer),
            ("q", "gate"),
        ),
        Control(
            "position off by one",
            "a layer's query and key of a new token are rotated to the position after its own",
            _in_kept_decode,
            lambda copy, place: faults.later_position(copy, place.graph, place.layer),
            ("key cache",),
        ),
        Control(
            "stale cache slot",
            "a layer's new key is written one slot too early, and its own slot holds what was there before",
            _in_kept_decode,
            lambda copy, place: faults.earlier_slot(copy, place.graph, place.layer),
            ("key cache",),
        ),
    )
}
