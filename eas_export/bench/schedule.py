"""Turns: in each round of a part everyone who has it takes one, in another order each time."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..core.progress import Progress
from .subprocess import Entrant, Refused
from .timing import Turns

BETWEEN = 0.01  # seconds between two turns: threads that spin for more work come to rest


@dataclass(frozen=True)
class Heat:
    """A part, how many turns everyone has, and what is timed in the same rounds beside it: other parts, of whom has them."""

    part: str
    rounds: int
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Race:
    """turns: heat's part -> (contestant, part) -> its turns; refused: contestant -> part -> why it was not timed; disk_reads: contestant ->
    pages that came from the disk while it was timed"""

    turns: dict[str, dict[tuple[str, str], Turns]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    disk_reads: Counter[str] = field(default_factory=Counter)


def run_race(entrants: Sequence[Entrant], heats: Sequence[Heat], progress: Progress) -> Race:
    """Everyone who can takes part in every heat; who fails in one is out of it."""
    race, order = Race(), Random(0)
    for heat in heats:
        if not any(heat.part in each.parts for each in entrants):
            continue
        _drop(entrants)
        there = [(each, part) for part in (heat.part, *heat.beside) for each in entrants if part in each.parts]
        ready = []
        with progress.stage(f"preparing {heat.part}", len(there), "contestants") as done:
            for taker in there:
                ready += [taker] if _asked(race, taker, "prepare") is not None else []
                done(1)
        taken: dict[tuple[str, str], list[list[float]]] = {(each.name, part): [] for each, part in ready}
        with progress.stage(f"timing {heat.part}", heat.rounds * len(ready), "turns") as done:
            for _ in range(heat.rounds):
                for taker in order.sample(ready, len(ready)):  # nobody has always the same one before
                    time.sleep(BETWEEN)
                    answer, key = _asked(race, taker, "turn"), (taker[0].name, taker[1])
                    if answer is None:
                        del taken[key]
                    else:
                        taken[key].append(answer["seconds"])
                        race.disk_reads[key[0]] += answer["disk_reads"]
                    done(1)
                ready = [(each, part) for each, part in ready if (each.name, part) in taken]
        race.turns[heat.part] = dict(taken)
    _drop(entrants)
    return race


def _asked(race: Race, taker: tuple[Entrant, str], request: str) -> dict[str, Any] | None:
    """Its answer; None where it refuses, and why is noted."""
    entrant, part = taker
    try:
        return entrant.ask({request: part})
    except Refused as refusal:
        race.refused.setdefault(entrant.name, {})[part] = str(refusal)
        return None


def _drop(entrants: Sequence[Entrant]) -> None:
    for each in entrants:
        with suppress(Refused):  # who crashed has nothing left
            each.ask({"drop": True})
