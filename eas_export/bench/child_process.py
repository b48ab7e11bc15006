"""A child process that runs a baseline (worker.py), from outside: started, asked, and ended with everything it had."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..core.errors import InternalError
from .settings import Workload

# Behind it comes where we import from, in our order: PYTHONPATH would put other packages before the standard library. What libraries print,
# while they are imported too, goes where nobody takes it for an answer
START = "import os, sys; sys.path[:] = sys.argv[1:]; answers = os.dup(1); os.dup2(2, 1)"
WORKER = [sys.executable, "-c", f"{START}; from eas_export.bench.worker import main; main(answers)"]


class Refused(Exception):
    """The baseline cannot do it; says why, and what would help."""


class ChildProcess:
    """A baseline that is open in a process of its own.

    parts    what can be timed, and what one piece of it moves or computes where that is known
    notes    what should be known of how it runs
    seconds  that opening took: PyTorch had been imported, what else it runs on had not
    """

    def __init__(self, name: str, process: subprocess.Popen, printed: Any):
        self.name = name
        self.parts: dict[str, int | None] = {}
        self.notes: tuple[str, ...] = ()
        self.seconds = 0.0
        self._process, self._printed = process, printed

    def open(self, runner: str, place: Path, workload: Workload) -> None:
        """Raises Refused where it cannot be had here."""
        request = {"runner": runner, "place": str(place), "workload": workload.model_dump(mode="json")}
        answer = self.ask(request)
        self.parts, self.notes, self.seconds = answer["parts"], tuple(answer["notes"]), answer["seconds"]

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer. Raises Refused for what it does not do and where it crashes, InternalError for a bug of ours in it."""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer

    def _ended(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGKILL:  # nothing but the system's lack of memory does that
            return Refused("it ran out of memory: end other programs, give fewer --batch, or --against fewer")
        if code < 0:
            return Refused(f"it crashed ({signal.Signals(-code).name}): try another version of what it runs on")
        self._printed.seek(0)
        return InternalError(f"the process of {self.name} ended with {code}:\n{self._printed.read()[-4000:]}")


@contextmanager
def started(name: str, scratch: Path) -> Iterator[ChildProcess]:
    """A process for this baseline, which ends with the block, and all that it started with it. scratch: for what it compiles"""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "compiled")}
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(
            [*WORKER, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            yield ChildProcess(name, process, printed)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):  # what it had not read
                process.stdin.close()
