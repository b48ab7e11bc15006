"""The child process of one baseline: it opens a bundle, and runs a trial when it is asked to. child_process.py starts it.

So each baseline has its own threads, allocator, memory and crashes. JSON lines on standard input and output:

    {"runner": .., "place": path, "workload": {..}}  ->  {"parts": {part: amount}, "notes": [..], "seconds": to open}
    {"prepare": part}                                ->  {}
    {"trial": part}                                  ->  {"seconds": [of each piece], "disk_reads": ..}
    {"drop": true}                                   ->  {}; what was prepared is dropped, a prompt's state stays
    {"memory": true}                                 ->  {"private_bytes": .., "peak_bytes": .., "device_bytes": ..}

Each may be answered by {"refused": why}.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..system.machine import give_back_memory, peak_memory, private_memory
from ..system.memory import enough_memory
from .runners import RUNNERS
from .settings import Workload
from .stages import Parts, Work
from .timing import WARM, run_trial

ALL_MODELS = "the models of all baselines at once"
FEWER = "end other programs, give fewer --batch, or fewer --against"


def main(answers_to: int) -> None:
    """answers_to: the descriptor that standard output was; what libraries print goes elsewhere"""
    answers = os.fdopen(answers_to, "w", buffering=1)
    lines = iter(sys.stdin.readline, "")
    for answer in serve(map(json.loads, lines)):
        answers.write(json.dumps(answer) + "\n")


def serve(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """An answer to each request; the first opens the baseline."""
    first = next(requests)
    start = time.perf_counter()
    try:
        with enough_memory(ALL_MODELS, FEWER):
            opened = RUNNERS[first["runner"]](Path(first["place"]), Workload(**first["workload"]))
    except UserError as error:
        yield {"refused": str(error)}
        return
    amounts = {name: part.amount for name, part in opened.parts.items()}
    yield {"parts": amounts, "notes": opened.notes, "seconds": time.perf_counter() - start}
    worker = Worker(opened.parts)
    for request in requests:
        try:
            with enough_memory(ALL_MODELS, FEWER):
                answer = worker.answer(request)
        except UserError as error:
            answer = {"refused": str(error)}
        yield answer


class Worker:
    """Answers requests; holds what was prepared."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self._ready: dict[str, Work] = {}
        self._warm: set[str] = set()  # parts that need no warming again
        self._private = private_memory()  # the most that was seen

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        ((kind, part),) = request.items()
        return getattr(self, f"_{kind}")(part)

    def _prepare(self, part: str) -> dict[str, Any]:
        work = self._parts[part].prepare()
        for _ in range(0 if part in self._warm else WARM):
            work()
        if self._parts[part].lasting:
            self._warm.add(part)
        self._ready[part] = work
        return {}

    def _trial(self, part: str) -> dict[str, Any]:
        before = _disk_reads()
        seconds = run_trial(self._ready[part])
        self._private = max(self._private, private_memory())
        return {"seconds": seconds, "disk_reads": _disk_reads() - before}

    def _drop(self, asked: bool) -> dict[str, Any]:
        self._ready.clear()
        give_back_memory()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return {}

    def _memory(self, asked: bool) -> dict[str, Any]:
        return {
            "private_bytes": self._private,
            "peak_bytes": peak_memory(),
            "device_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None,
        }


def _disk_reads() -> int:
    """Pages of mapped files that were not in memory when they were read."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
