"""Who is measured: what runs what. A contestant is a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

from ..backends import backends_that_run
from ..backends.runtime import Runtime
from ..bundle.manifest import Manifest
from ..core.configs import AnyConfig
from ..core.errors import UserError
from ..core.options import EngineWeights
from ..networks import network_part
from .settings import Workload
from .stages import Prepare


@dataclass(frozen=True)
class Contestant:
    """variant: a row of variants.VARIANTS; runner: a row of runners.RUNNERS; what: both in words"""

    variant: str
    runner: str
    what: str


def with_backends(rows: Mapping[str, Contestant], modes: Mapping[str, str]) -> dict[str, Contestant]:
    """The rows, and those that they lack for a bundle in these fold modes (each with its words) on every backend that runs its graphs
    or engines."""
    found = {
        f"{b}-{m}": Contestant(m, b, f"{b}, {words}")
        for b, (m, words) in product(backends_that_run("graphs"), modes.items())
    }
    for backend, (mode, words), weights in product(
        backends_that_run("engines"), modes.items(), get_args(EngineWeights)
    ):
        name = f"{backend}-{mode}-{weights}"
        found[name] = Contestant(name, backend, f"{backend} engines with {weights} weights, {words}")
    return {**rows, **{name: row for name, row in found.items() if name not in rows}}


Comparisons = tuple[
    tuple[str, str, str], ...
]  # (what it shows, of, to): names of contestants, compared at steady steps of one row


@dataclass(frozen=True)
class Kind:
    """What is particular to a kind of network.

    step       the part that it does again and again, with a place for the number of rows
    parts      (runtime, workload) -> its parts, and how each is prepared
    baselines  name -> contestant
    claims     what the published claims and ours come to
    causes     what saves time, (cause, before, after): each begins where the one before ends, the last is all of it
    """

    step: str
    parts: Callable[[Runtime, Workload], dict[str, Prepare]]
    baselines: Mapping[str, Contestant]
    claims: Comparisons
    causes: Comparisons


def kind_of(config: AnyConfig) -> Kind:
    return network_part(config, "bench")


def choose(known: Mapping[str, Contestant], own: str, against: Sequence[str] | None) -> dict[str, Contestant]:
    """The bundle itself first, then the others that were asked for, all without being asked. Raises UserError for an unknown name."""
    names = list(known) if against is None else list(against)
    for name in names:
        if name not in known:
            raise UserError(f"there is no {name!r}", where="--against", fix=f"choose from {', '.join(known)}")
    return {name: known[name] for name in dict.fromkeys([own, *names])}


def subject(m: Manifest, device: str) -> str:
    """The contestant that is the bundle itself: on a GPU its engines, where it has any."""
    targets = [record.engine.target for record in m.engine_files.values()]
    if device == "cuda" and targets:
        return f"{targets[0].backend}-{m.fold}-{targets[0].weights}"
    return f"onnxruntime-{m.fold}"
