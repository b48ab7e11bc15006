"""Callbacks of the builder, called from its own threads: serialized by a lock. An exception that left a callback would end the process, so
it is stored in `failure`, to be raised when the builder is done.
"""

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO


def make_writer(trt: ModuleType, file: BinaryIO) -> Any:
    """A stream writer that writes the engine to a file as it arrives."""

    class Writer(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.failure: BaseException | None = None

        def write(self, data: bytes) -> int:
            try:
                file.write(data)
                file.flush()
            except BaseException as error:
                self.failure = error
                return 0
            return len(data)

    return Writer()


def make_monitor(trt: ModuleType, on_fraction: Callable[[float], bool]) -> Any:
    """A progress monitor that calls on_fraction(done, 0 to 1); it is `stopped` when that returns False or raises. Phases are nested; a
    phase counts as one step of its parent."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.stopped = False
            self.failure: BaseException | None = None
            self.restart()

        def restart(self) -> None:
            self.phases: dict[str, tuple[str | None, int]] = {}  # name -> parent, number of steps
            self.steps: dict[str, float] = {}  # name -> steps done

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self.lock:
                self.phases[phase_name], self.steps[phase_name] = (parent_phase, max(1, num_steps)), 0.0

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                self.steps[phase_name] = max(self.steps.get(phase_name, 0.0), step + 1.0)
                self._tell()
                return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            with self.lock:
                parent, _ = self.phases.pop(phase_name, (None, 1))
                self.steps.pop(phase_name, None)
                if parent in self.phases:
                    self.steps[parent] = min(self.steps[parent] + 1, self.phases[parent][1])
                self._tell()

        def _tell(self) -> None:
            try:
                self.stopped = self.stopped or not on_fraction(self._fraction())
            except BaseException as error:
                self.failure, self.stopped = error, True

        def _fraction(self) -> float:
            whole, share = 0.0, 1.0
            for name, (_, steps) in self.phases.items():  # each is nested in the one before
                whole += share * min(1.0, self.steps[name] / steps)
                share *= 1.0 / steps
            return min(1.0, whole)

    return Monitor()
