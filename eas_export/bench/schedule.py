"""Rounds of trials: in each round of a part every baseline that has the part runs one trial, in another order each time."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..core.progress import Progress
from .child_process import ChildProcess, Refused
from .timing import Trials

BETWEEN = 0.01  # seconds between two trials: threads that spin for more work go to sleep


@dataclass(frozen=True)
class TimedPart:
    """A part, in how many rounds it is timed, and which other parts are timed in the same rounds, of the baselines that have them."""

    part: str
    rounds: int
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurements:
    """trials: timed part -> (baseline, part) -> its trials; refused: baseline -> part -> why it was not timed; disk_reads: baseline ->
    pages that came from the disk while it was timed"""

    trials: dict[str, dict[tuple[str, str], Trials]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    disk_reads: Counter[str] = field(default_factory=Counter)


def run_schedule(children: Sequence[ChildProcess], schedule: Sequence[TimedPart], progress: Progress) -> Measurements:
    """Time every baseline in every part that it has; one that fails in a part is left out of that part."""
    measured, order = Measurements(), Random(0)
    for timed in schedule:
        if not any(timed.part in each.parts for each in children):
            continue
        _drop(children)
        entries = [(each, part) for part in (timed.part, *timed.beside) for each in children if part in each.parts]
        ready = []
        with progress.stage(f"preparing {timed.part}", len(entries), "baselines") as done:
            for entry in entries:
                ready += [entry] if _asked(measured, entry, "prepare") is not None else []
                done(1)
        taken: dict[tuple[str, str], list[list[float]]] = {(each.name, part): [] for each, part in ready}
        with progress.stage(f"timing {timed.part}", timed.rounds * len(ready), "trials") as done:
            for _ in range(timed.rounds):
                for entry in order.sample(ready, len(ready)):  # so that none always runs after the same one
                    time.sleep(BETWEEN)
                    answer, key = _asked(measured, entry, "trial"), (entry[0].name, entry[1])
                    if answer is None:
                        del taken[key]
                    else:
                        taken[key].append(answer["seconds"])
                        measured.disk_reads[key[0]] += answer["disk_reads"]
                    done(1)
                ready = [(each, part) for each, part in ready if (each.name, part) in taken]
        measured.trials[timed.part] = dict(taken)
    _drop(children)
    return measured


def _asked(measured: Measurements, entry: tuple[ChildProcess, str], request: str) -> dict[str, Any] | None:
    """Its answer; None where it refuses, with the reason in `measured`."""
    child, part = entry
    try:
        return child.ask({request: part})
    except Refused as refusal:
        measured.refused.setdefault(child.name, {})[part] = str(refusal)
        return None


def _drop(children: Sequence[ChildProcess]) -> None:
    for each in children:
        with suppress(Refused):  # one that crashed has nothing left
            each.ask({"drop": True})
