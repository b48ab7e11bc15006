"""Progress on standard error: bars on a terminal, lines in a log, JSON lines for programs."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from ..core.progress import Progress
from .output import size
from .width import fill, line_width

EVERY = 10.0  # seconds between two lines of one stage
EVERY_EVENT = 1.0  # between two events of one stage


def make_progress(as_json: bool) -> Progress:
    """The Progress that suits this standard error."""
    console = Console(stderr=True, highlight=False)
    return JsonProgress() if as_json else BarProgress(console) if console.is_terminal else LineProgress()


class BarProgress(Progress):
    """A bar with amount, rate and time left; a line when the stage is done."""

    def __init__(self, console: Console):
        self.console = console

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
        start = time.monotonic()
        columns = [SpinnerColumn(), TextColumn("{task.description}")]
        counted = [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
        columns += [BarColumn(), *counted, TimeRemainingColumn()] if total else [TimeElapsedColumn()]
        with Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda done: bars.advance(task, done)
        _say(_finished(title, total, unit, time.monotonic() - start))

    def note(self, title: str, values: Mapping[str, object]) -> None:
        self.console.print(_noted(title, values), markup=False)


class LineProgress(Progress):
    """A line when a stage is done, and one every EVERY seconds before."""

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
        meter = _Meter(total, EVERY)

        def advance(done: int) -> None:
            if meter.advance(done):
                left = f", {meter.seconds_left:.0f} s left" if meter.seconds_left is not None else ""
                rate = f", {_amount(meter.rate, unit)}/s"
                of = f" of {_amount(total, unit)}" if total else ""
                _say(f"{title}: {_amount(meter.done, unit)}{of}{rate}{left}")

        yield advance
        _say(_finished(title, total, unit, meter.seconds))

    def note(self, title: str, values: Mapping[str, object]) -> None:
        _say(_noted(title, values))


class JsonProgress(Progress):
    """An event per line: {"event": "start" | "progress" | "done", "stage": ..., "unit": ..., "done": ..., "total": ..., "seconds":
    ..., "rate": per second, "seconds_left": ...}; notes: {"event": "note", "stage": ..., and the note's values}"""

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
        meter = _Meter(total, EVERY_EVENT)

        def say(event: str) -> None:
            record = {"event": event, "stage": title, "unit": unit, "done": meter.done, "total": total}
            record |= {
                "seconds": round(meter.seconds, 2),
                "rate": round(meter.rate, 1),
                "seconds_left": meter.seconds_left,
            }
            print(json.dumps(record), file=sys.stderr, flush=True)

        say("start")
        yield lambda done: say("progress") if meter.advance(done) else None
        say("done")

    def note(self, title: str, values: Mapping[str, object]) -> None:
        print(json.dumps({"event": "note", "stage": title} | dict(values)), file=sys.stderr, flush=True)


class _Meter:
    """Counts what is done of a stage."""

    def __init__(self, total: int | None, every: float):
        self.total, self.every, self.done = total, every, 0
        self.start = self.said = time.monotonic()

    def advance(self, done: int) -> bool:
        """Count what was done. Returns whether a line is due."""
        self.done += done
        now = time.monotonic()
        due = now - self.said >= self.every
        self.said = now if due else self.said
        return due

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @property
    def rate(self) -> float:
        return self.done / max(self.seconds, 1e-6)

    @property
    def seconds_left(self) -> float | None:
        return round(max(0, self.total - self.done) / self.rate, 1) if self.total and self.done else None


def _say(line: str) -> None:
    """On standard error: a line in a log, several where a line is too long for the terminal or for COLUMNS."""
    print(fill(line, line_width(sys.stderr, len(line)), "  "), file=sys.stderr, flush=True)


def _amount(number: float, unit: str) -> str:
    return size(number) if unit == "bytes" else f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"


def _finished(title: str, total: int | None, unit: str, seconds: float) -> str:
    amount = f", {size(total) if unit == 'bytes' else f'{total} {unit}'}" if total else ""
    rate = f", {size(total / seconds)}/s" if total and unit == "bytes" and seconds > 1 else ""
    return f"{title}: done in {seconds:.1f} s{amount}{rate}"


def _noted(title: str, values: Mapping[str, object]) -> str:
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
    return f"{title}: {', '.join(shown)}"
