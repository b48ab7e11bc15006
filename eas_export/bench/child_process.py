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

# The arguments after it are our sys.path, in its order: PYTHONPATH would put other packages before the standard library. What libraries
# print, while they are imported too, goes to standard error, so that it is not read as an answer
START = "import os, sys; sys.path[:] = sys.argv[1:]; answers = os.dup(1); os.dup2(2, 1)"
WORKER = [sys.executable, "-c", f"{START}; from eas_export.bench.worker import main; main(answers)"]


class Refused(Exception):
    """A baseline cannot do what it was asked; the message says why, and what would help."""


class ChildProcess:
    """A baseline that is open in a process of its own.

    parts    what can be timed -> the bytes or operations of one piece of it, None where unknown
    notes    what a reader of its figures should know
    seconds  to open it, PyTorch imported before, its other libraries not
    """

    def __init__(self, name: str, process: subprocess.Popen, printed: Any):
        self.name = name
        self.parts: dict[str, int | None] = {}
        self.notes: tuple[str, ...] = ()
        self.seconds = 0.0
        self._process, self._printed = process, printed

    def open(self, runner: str, place: Path, workload: Workload) -> None:
        """Raises Refused where the baseline cannot run here."""
        request = {"runner": runner, "place": str(place), "workload": workload.model_dump(mode="json")}
        answer = self.ask(request)
        self.parts, self.notes, self.seconds = answer["parts"], tuple(answer["notes"]), answer["seconds"]

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return its answer. Raises Refused where it refuses or crashes, InternalError where our own code in it fails."""
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
        if code == -signal.SIGKILL:  # from the kernel, which is out of memory
            return Refused(
                "the baseline's process ran out of memory: end other programs, or give smaller --batch sizes or fewer --against"
            )
        if code < 0:
            return Refused(
                f"the baseline's process crashed ({signal.Signals(-code).name}): try another version of its runtime"
            )
        self._printed.seek(0)
        return InternalError(f"the process of {self.name} ended with {code}:\n{self._printed.read()[-4000:]}")


@contextmanager
def started(name: str, scratch: Path) -> Iterator[ChildProcess]:
    """Start a process for this baseline. The end of the block kills it and its children. scratch: for what it compiles"""
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
