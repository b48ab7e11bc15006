"""The parts that are timed, as pieces of work on a runtime.

    vision              one image through the tower
    prefill             one prompt of text, into new caches
    fold                its adapters into the weights
    first step          a decode step on tensors that were not there before
    decode x4           a step of four rows, into the last slot of caches as long as prompt and answer; the same one again and again
    decode, full cache  a step of one row whose caches are as long as the bundle takes
    answer              a new conversation, of text: prefill, fold and as many steps as there are new tokens
    encode x4           four pairs through a cross-encoder
    read: .., multiply: ..  what the machine can do (peak.py)

A piece ends when its results are there: a GPU is waited for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends.runtime import Runtime
from ..networks import network_part
from .settings import Workload

VISION, PREFILL, FOLD, FIRST, FULL, ANSWER = "vision", "prefill", "fold", "first step", "decode, full cache", "answer"
DECODE, ENCODE = "decode x{}", "encode x{}"
READ, PRODUCT = "read: ", "multiply: "  # the machine's own, before what they are

Work = Callable[[], object]
Prepare = Callable[[], Work]  # everything that is not timed, done once


@dataclass(frozen=True)
class Part:
    """amount: what one piece moves or computes, where that is known beforehand: bytes, or floating-point operations"""

    prepare: Prepare
    amount: int | None = None


Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Opened:
    """A baseline that is open: what can be timed of it, and what should be known of how it runs."""

    parts: Parts
    notes: tuple[str, ...] = ()


def parts_of(runtime: Runtime, workload: Workload) -> Parts:
    """What the runtime's graphs and limits have, by name."""
    prepared = network_part(runtime.config, "bench").parts(runtime, workload)
    return {
        name: Part(lambda prepare=prepare: synchronised(prepare(), runtime.device))
        for name, prepare in prepared.items()
    }


def slots_of(part: str, workload: Workload, most: int) -> int:
    """The cache slots that a step of this part reads. most: those of the bundle"""
    return most if part == FULL else workload.prompt_tokens + workload.new_tokens


def synchronised(work: Work, device: torch.device) -> Work:
    """The work until its results are there."""
    if device.type != "cuda":
        return work

    def until_done() -> None:
        work()
        torch.cuda.synchronize(device)

    return until_done


def prompt_ids(vocab_size: int, rows: int, length: int) -> Tensor:
    """[rows, length] int64, drawn: the same for the same numbers; 0 to 2 stand for padding, beginning and end in most vocabularies"""
    return torch.randint(3, vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
