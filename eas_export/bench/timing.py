"""Seconds of pieces of work, timed trial by trial, and their statistics. Independent of any model.

A trial is short, and in each round every baseline has one: whatever slows the machine down slows all of them. So figures are compared within
a round, and reported as the median, the 10th and the 90th percentile of the rounds' ratios.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import FiniteFloat

from ..core.record import Record

WARM = 2  # uncounted pieces after a part is prepared: kernels are chosen, memory is touched
SHORT = (
    0.02  # seconds: shorter pieces run uncounted for so long at the beginning of a trial: threads wake up, caches fill
)
A_TRIAL = 0.1  # seconds of counted pieces; at least one piece
MOST_PIECES = 200  # of one trial

Clock = Callable[[], float]
Trials = Sequence[Sequence[float]]  # seconds of each piece, by trial


class Spread(Record):
    """The 10th percentile, the median and the 90th percentile."""

    p10: FiniteFloat
    p50: FiniteFloat
    p90: FiniteFloat


class Timing(Record):
    """Seconds of one piece of work. pieces: that were counted; trials: that they were counted in"""

    seconds: Spread
    pieces: int
    trials: int


def run_trial(work: Callable[[], object], clock: Clock = time.perf_counter) -> list[float]:
    """Seconds of each counted piece. `work` must synchronize before it returns."""
    start = clock()
    first = _piece(work, clock)
    if first < SHORT:
        while clock() - start < SHORT:
            work()
        first = _piece(work, clock)
    pieces = [first]
    while sum(pieces) < A_TRIAL and len(pieces) < MOST_PIECES:
        pieces.append(_piece(work, clock))
    return pieces


def _piece(work: Callable[[], object], clock: Clock) -> float:
    start = clock()
    work()
    return clock() - start


def spread(values: Sequence[float]) -> Spread:
    low, middle, high = np.percentile(values, (10, 50, 90)).tolist()
    return Spread(p10=low, p50=middle, p90=high)


def timing(trials: Trials) -> Timing:
    pieces = [seconds for trial in trials for seconds in trial]
    return Timing(seconds=spread(pieces), pieces=len(pieces), trials=len(trials))


def by_round(*baselines: Trials) -> list[tuple[float, ...]]:
    """The median piece of each baseline in each round."""
    return list(zip(*([statistics.median(trial) for trial in trials] for trials in baselines), strict=True))


def quotient(of: Trials, to: Trials) -> Spread:
    """of / to, round by round."""
    return spread([mine / other for mine, other in by_round(of, to)])


def difference(of: Trials, to: Trials) -> Spread:
    """of - to, round by round, in seconds."""
    return spread([mine - other for mine, other in by_round(of, to)])


def inverse(values: Spread, numerator: float) -> Spread:
    """numerator / value: seconds to rates and back. The largest becomes the smallest."""
    return Spread(p10=numerator / values.p90, p50=numerator / values.p50, p90=numerator / values.p10)


def duration(seconds: float) -> str:
    """Three digits and their unit: 168 ms, 1.08 s"""
    number, unit = (seconds * 1e3, "ms") if seconds < 0.9995 else (seconds, "s")
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {unit}"
