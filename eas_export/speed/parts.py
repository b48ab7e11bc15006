"""The parts that are timed, as pieces of work on a runtime.

    vision              one image through the tower
    prefill             one prompt of text, into new caches
    fold                its adapters into the weights
    first step          a decode step on tensors that were not there before
    decode x4           a step of four rows, into the last slot of caches as long as prompt and answer; the same one again and again
    decode, full cache  a step of one row whose caches are as long as the bundle takes
    answer              a new conversation, of text: prefill, fold and as many steps as there are new tokens
    encode x4           four pairs through a cross-encoder
    read: .., multiply: ..  what the machine can do (rates.py)

A piece ends when its results are there: a GPU is waited for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from ..backends.runtime import Bound, Runtime
from ..conversation import Conversation, Prompts, decode_inputs, empty_caches, encode_images, prefill
from ..model.text_encoder import PADDING
from ..pairs import Pairs, graph_inputs
from .workload import Workload

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
    """A contestant that is open: what can be timed of it, and what should be known of how it runs."""

    parts: Parts
    notes: tuple[str, ...] = ()


def parts_of(runtime: Runtime, workload: Workload) -> Parts:
    """What the runtime's graphs and limits have, by name."""
    prepared = PARTS[runtime.config.kind](runtime, workload)
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


class _Decoder:
    """How a decoder's parts are prepared; what its prompts leave behind is made once, folded weights are large."""

    def __init__(self, runtime: Runtime, workload: Workload):
        self.runtime, self.workload = runtime, workload
        self.conversation = cache(self.read)

    def parts(self) -> dict[str, Prepare]:
        found: dict[str, Prepare] = {VISION: self.vision, PREFILL: self.prefill, FIRST: self.first, ANSWER: self.answer}
        if "fold" in self.runtime.sessions:
            found[FOLD] = lambda: partial(self.runtime.run, "fold", self.conversation().state)
        for rows in self.workload.batches:
            if rows <= self.runtime.limits.max_batch:
                found[DECODE.format(rows)] = lambda rows=rows: self.bind(rows, DECODE).run
        return found | {FULL: lambda: self.bind(1, FULL).run}

    def vision(self) -> Work:
        spec, size = self.runtime.sessions["vision"].spec, self.runtime.config.vision.image_size
        pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        return self.runtime.bind("vision", {"pixel_values": pixels.to(getattr(torch, spec.inputs[0].dtype))}).run

    def prefill(self) -> Work:
        runtime, prompts = self.runtime, _prompts(self.runtime, 1, self.workload.prompt_tokens)
        features = encode_images(runtime, prompts)
        return lambda: prefill(runtime, prompts, features, empty_caches(runtime, 1, self.slots(PREFILL)))

    def first(self) -> Work:
        self.conversation()
        return lambda: self.bind(1, FIRST).run()

    def answer(self) -> Work:
        def answer() -> None:
            conversation = self.read()
            for _ in range(self.workload.new_tokens):
                conversation.feed(conversation.logits.argmax(-1).cpu())

        return answer

    def bind(self, rows: int, part: str) -> Bound:
        """A step into the last slot. Every row has a state of its own, all with the same numbers: reading as many prompts for it would take
        more memory than the step."""
        slots, before = self.slots(part), self.conversation()
        caches, lengths = empty_caches(self.runtime, rows, slots), torch.full((rows,), slots - 1)
        states = {name: value.repeat(rows, *[1] * (value.dim() - 1)) for name, value in before.state.items()}
        token = torch.ones(rows, dtype=torch.int64)
        return self.runtime.bind("decode", decode_inputs(token, lengths, caches, before.folded or states))

    def slots(self, part: str) -> int:
        return slots_of(part, self.workload, self.runtime.limits.max_tokens)

    def read(self) -> Conversation:
        prompts = _prompts(self.runtime, 1, self.workload.prompt_tokens)
        return Conversation(self.runtime, prompts, room=self.workload.new_tokens)


def _prompts(runtime: Runtime, rows: int, length: int) -> Prompts:
    """Different ones, the same for everyone."""
    ids = prompt_ids(runtime.config.vocab_size, rows, length)
    return Prompts(ids, torch.full((rows,), length), torch.full_like(ids, -1))


def prompt_ids(vocab_size: int, rows: int, length: int) -> Tensor:
    """[rows, length] int64, drawn: the same for the same numbers; 0 to 2 stand for padding, beginning and end in most vocabularies"""
    return torch.randint(3, vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))


def _cross_encoder(runtime: Runtime, workload: Workload) -> dict[str, Prepare]:
    return {
        ENCODE.format(rows): lambda rows=rows: _encode(runtime, rows)
        for rows in workload.batches
        if rows <= runtime.limits.max_batch
    }


def _encode(runtime: Runtime, rows: int) -> Work:
    config, random = runtime.config, torch.Generator().manual_seed(0)
    ids = torch.randint(config.text.vocab_size, (rows, config.text_length), generator=random)
    ids = torch.where(ids == PADDING, 0, ids)
    size, each = config.image.image_size, torch.arange(rows)
    pixels = tuple(torch.randn(rows, 3, size, size, generator=random) for _ in range(config.images))
    pairs = Pairs(ids, torch.ones_like(ids), pixels, each, each)
    return runtime.bind("encode", graph_inputs(runtime, pairs)).run


# Kind of network (a config's) -> (runtime, workload) -> its parts, and how each is prepared
PARTS: Mapping[str, Callable[[Runtime, Workload], dict[str, Prepare]]] = {
    "decoder": lambda runtime, workload: _Decoder(runtime, workload).parts(),
    "cross-encoder": _cross_encoder,
}
