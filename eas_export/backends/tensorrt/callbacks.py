"""What the builder calls back while it works, from threads of its own: one at a time here, and no exception leaves it, which would end
the process. It is kept in `failure`, to be raised when the builder is done.
"""

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO


def make_writer(trt: ModuleType, file: BinaryIO) -> Any:
    """Takes the engine into a file as it comes."""

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
    """Tells on_fraction how far it is; `stopped` when that said False or raised. Phases lie in one another; a phase counts for one step
    of its parent."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.stopped = False
            self.failure: BaseException | None = None
            self.restart()

        def restart(self) -> None:
            self.phases: dict[str, tuple[str | None, int]] = {}  # name -> its parent and its number of steps
            self.steps: dict[str, float] = {}  # name -> how many of them are done

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
            for name, (_, steps) in self.phases.items():  # each inside the one before
                whole += share * min(1.0, self.steps[name] / steps)
                share *= 1.0 / steps
            return min(1.0, whole)

    return Monitor()
