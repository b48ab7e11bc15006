"""The statistics of a report on a fake clock: work takes as long as it says, and nothing is measured."""

import pytest

from eas_export.bench.timing import (
    A_TRIAL,
    MOST_PIECES,
    SHORT,
    difference,
    inverse,
    quotient,
    run_trial,
    spread,
    timing,
)


class Clock:
    """Stands still but for the work that is done on it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float):
        """A piece of work that takes so long, and so long the next time, and so on; then always as long as the last time."""
        left = list(seconds)

        def run() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_a_long_piece_is_counted_at_once():
    clock = Clock()
    assert run_trial(clock.work(0.5), clock) == pytest.approx([0.5])


def test_pieces_are_counted_until_the_trial_is_over():
    clock = Clock()
    pieces = run_trial(clock.work(0.03), clock)
    assert pieces == pytest.approx([0.03] * 4) and sum(pieces) >= A_TRIAL


def test_short_pieces_are_run_uncounted_first():
    clock = Clock()
    pieces = run_trial(clock.work(0.015, 0.015, 0.001), clock)  # cold for 30 ms, then quick
    assert pieces[0] == pytest.approx(0.001)
    assert len(pieces) == pytest.approx(A_TRIAL / 0.001, abs=1)
    assert clock.now - 1000.0 - sum(pieces) >= SHORT


def test_a_trial_of_tiny_pieces_ends():
    clock = Clock()
    assert len(run_trial(clock.work(1e-5), clock)) == MOST_PIECES


def test_percentiles_lie_between_the_pieces():
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.p10, found.p50, found.p90) == pytest.approx((1.4, 3.0, 4.6))


def test_a_timing_is_of_all_pieces_of_all_trials():
    found = timing([[1.0, 2.0], [3.0], [4.0, 5.0]])
    assert (found.seconds.p50, found.pieces, found.trials) == (3.0, 5, 3)


def test_ratios_are_made_round_by_round():
    """A machine that was three times as slow in the second round changes no ratio."""
    slow, quick = [[2.0, 2.0, 9.0], [6.0]], [[1.0], [3.0]]
    assert quotient(slow, quick) == spread([2.0, 2.0])
    assert difference(slow, quick) == spread([1.0, 3.0])


def test_trials_with_different_numbers_of_rounds_are_refused():
    with pytest.raises(ValueError):
        quotient([[1.0], [1.0]], [[1.0]])


def test_rates_swap_the_percentiles():
    found = inverse(spread([1.0, 2.0, 4.0]), 8.0)
    assert found.p50 == 4.0 and found.p10 < found.p50 < found.p90
    assert found.p10 == pytest.approx(8.0 / spread([1.0, 2.0, 4.0]).p90)
