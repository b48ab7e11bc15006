"""What a baseline is: a row that says what runs which bundle. The rows are in decoder.py and cross_encoder.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

from ..backends import backends_that_run
from ..backends.runtime import Runtime
from ..bundle.manifest import Manifest, Target
from ..core.configs import AnyConfig
from ..core.errors import UserError
from ..core.options import EngineWeights
from ..networks import network_part
from .roofline import Flops
from .settings import Workload
from .stages import Prepare


@dataclass(frozen=True)
class Baseline:
    """bundle: a row of baseline_bundles.BUNDLES, empty for the bundle itself; runner: a row of runners.RUNNERS, empty for the one that runs the
    bundle itself; what: both in words"""

    bundle: str
    runner: str
    what: str


def with_backends(rows: Mapping[str, Baseline], modes: Mapping[str, str]) -> dict[str, Baseline]:
    """The rows, and one for each fold mode on each backend that runs graphs or engines, where they have none. modes: fold mode -> what
    it does with the adapters"""
    others = {
        f"{b}-{m}": Baseline(m, b, f"{b}, {words}")
        for b, (m, words) in product(backends_that_run("graphs"), modes.items())
    }
    for backend, (mode, words), weights in product(
        backends_that_run("engines"), modes.items(), get_args(EngineWeights)
    ):
        name = f"{backend}-{mode}-{weights}"
        others[name] = Baseline(name, backend, f"{backend} engines with {weights} weights, {words}")
    return {**rows, **{name: row for name, row in others.items() if name not in rows}}


# (what it shows, of, to): two baselines, compared in a steady step of one row
Comparisons = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Kind:
    """What differs by kind of network: decoder.py and cross_encoder.py hold one each.

    step       the part that is repeated, with a place for the number of rows
    parts      (runtime, workload) -> its parts, and how each is prepared
    baselines  by name
    claims     the comparisons behind the published claims and ours
    flops      what a run of each graph computes
    causes     what saves time, (cause, before, after): each starts where the previous one ends, the last is all of it
    """

    step: str
    parts: Callable[[Runtime, Workload], dict[str, Prepare]]
    baselines: Mapping[str, Baseline]
    claims: Comparisons
    causes: Comparisons
    flops: Flops


def kind_of(config: AnyConfig) -> Kind:
    return network_part(config, "bench")


def choose(known: Mapping[str, Baseline], own: Sequence[str], against: Sequence[str] | None) -> dict[str, Baseline]:
    """The bundle itself (`own`) first, then the baselines to compare with; None: all. Raises UserError for an unknown name."""
    names = list(known) if against is None else list(against)
    for name in names:
        if name not in known:
            raise UserError(f"unknown baseline {name!r}", where="--against", fix=f"choose from {', '.join(known)}")
    return {name: known[name] for name in dict.fromkeys([*own, *names])}


def subjects(m: Manifest, device: str) -> tuple[str, ...]:
    """The baselines that are the bundle itself; the first that runs is what others are compared with. On a GPU: the bundle's engines where
    it has any, else ONNX Runtime or, where that runs on CPUs only, PyTorch."""
    if target := engine_target(m, device):
        return (f"{target.backend}-{m.fold}-{target.weights}",)
    return tuple(
        f"{runner}-{m.fold}" for runner in {"cpu": ("onnxruntime",), "cuda": ("onnxruntime", "pytorch")}[device]
    )


def engine_target(m: Manifest, device: str) -> Target | None:
    """What the engines that run the bundle on this device were built for; None where its graphs run."""
    targets = [record.engine.target for record in m.engine_files.values()]
    return targets[0] if device == "cuda" and targets else None
