"""The parts that are timed, as pieces of work on a runtime.

    vision              one image through the tower
    prefill             one prompt of text, into new caches
    fold                the prompt's adapters into the weights
    first step          a decode step on newly allocated tensors
    decode x4           a step of four rows, into the last slot of caches as long as prompt and answer; the same one again and again
    decode, full cache  a step of one row whose caches are as long as the bundle takes
    answer              a new conversation of text: prefill, fold and a step for each new token
    encode x4           four pairs through a cross-encoder
    read: .., multiply: ..  the machine's probes (peak.py)

A piece ends when its results are there: the GPU is synchronized.
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
READ, PRODUCT = "read: ", "multiply: "  # each before the name of a probe

Work = Callable[[], object]
Prepare = Callable[[], Work]  # does once what is not timed


@dataclass(frozen=True)
class Part:
    """amount: what one piece moves or computes, where that is known beforehand: bytes, or floating-point operations
    lasting: it works on the same memory whenever it is prepared, and is warmed once"""

    prepare: Prepare
    amount: int | None = None
    lasting: bool = False


Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Opened:
    """An opened baseline: its parts, and notes for a reader of its figures."""

    parts: Parts
    notes: tuple[str, ...] = ()


def parts_of(runtime: Runtime, workload: Workload) -> Parts:
    """The parts that the runtime's graphs and limits allow, by name."""
    prepared = network_part(runtime.config, "bench").parts(runtime, workload)
    return {
        name: Part(lambda prepare=prepare: synchronized(prepare(), runtime.device))
        for name, prepare in prepared.items()
    }


def slots_of(part: str, workload: Workload, most: int) -> int:
    """The cache slots that a step of this part reads. most: those of the bundle"""
    return most if part == FULL else workload.prompt_tokens + workload.new_tokens


def synchronized(work: Work, device: torch.device) -> Work:
    """The work, which then waits for the GPU where it runs on one."""
    if device.type != "cuda":
        return work

    def until_done() -> None:
        work()
        torch.cuda.synchronize(device)

    return until_done


def prompt_ids(vocab_size: int, rows: int, length: int) -> Tensor:
    """[rows, length] int64: random, the same for the same arguments. Ids 0 to 2 are padding, beginning and end in most vocabularies."""
    return torch.randint(3, vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
