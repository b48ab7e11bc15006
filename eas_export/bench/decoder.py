"""A decoder's rows for `bench`: its baselines, the comparisons between them, and the parts that are timed."""

from functools import cache, partial

import torch

from ..backends.runtime import Bound, Runtime
from ..generation.conversation import Conversation, decode_inputs, empty_caches, encode_images, prefill, set_of
from ..networks.decoder.graphs import FOLD_MODES
from ..networks.decoder.prompts import Prompts
from .baselines import Baseline, Kind, with_backends
from .roofline import DECODER_FLOPS
from .settings import Workload
from .stages import ANSWER, DECODE, FIRST, FOLD, FULL, PREFILL, VISION, Prepare, Work, prompt_ids, slots_of

_FOLDED = "folded into the weights prompt by prompt"
_BESIDE = "beside shared weights, frozen at the prompt's state"

_ROWS = {
    "onnxruntime-weights": Baseline("weights", "onnxruntime", f"ONNX Runtime, adapters {_FOLDED}"),
    "onnxruntime-lowrank": Baseline("lowrank", "onnxruntime", f"ONNX Runtime, adapters {_BESIDE}"),
    "onnxruntime-none": Baseline("none", "onnxruntime", "ONNX Runtime, a model without adapters"),
    "onnxruntime-floor": Baseline("floor", "onnxruntime", "ONNX Runtime, the same graphs with the adapters left out"),
    "onnxruntime-unskipped": Baseline("unskipped", "onnxruntime", f"ONNX Runtime, every attention, adapters {_BESIDE}"),
    "onnxruntime-plain": Baseline("plain", "onnxruntime", "ONNX Runtime, the base model: every attention, no adapters"),
    "onnxruntime-genai": Baseline("genai", "genai", "onnxruntime-genai, the base model from its own builder"),
    "pytorch-unskipped": Baseline("unskipped", "published", "PyTorch eager as published, no attention skipped"),
    "pytorch-published": Baseline(
        "lowrank", "published", "PyTorch eager as published: adapters as convolutions in the loop"
    ),
    "pytorch-weights": Baseline("weights", "pytorch", f"PyTorch eager, adapters {_FOLDED}"),
    "pytorch-lowrank": Baseline("lowrank", "pytorch", f"PyTorch eager, adapters {_BESIDE}"),
    "pytorch-none": Baseline("none", "pytorch", "PyTorch eager, a model without adapters"),
    "pytorch-compiled": Baseline("lowrank", "compiled", f"torch.compile, adapters {_BESIDE}"),
    "pytorch-captured-weights": Baseline("weights", "captured", f"PyTorch's step as a CUDA graph, adapters {_FOLDED}"),
    "pytorch-captured-lowrank": Baseline("lowrank", "captured", f"PyTorch's step as a CUDA graph, adapters {_BESIDE}"),
    "pytorch-captured-floor": Baseline("floor", "captured", "PyTorch's step as a CUDA graph, the adapters left out"),
}
_MODES = {
    f: f"adapters {_FOLDED if 'fold' in mode.graphs else _BESIDE}"
    for f, mode in FOLD_MODES.items()
    if None not in mode.routers
}
BASELINES = with_backends(_ROWS, _MODES)

# The comparisons behind the published claims and ours
CLAIMS = (
    ("folded against no adapters", "onnxruntime-weights", "onnxruntime-floor"),
    ("low-rank against no adapters", "onnxruntime-lowrank", "onnxruntime-floor"),
    ("eager as published against folded", "pytorch-published", "onnxruntime-weights"),
    ("eager as published against low-rank", "pytorch-published", "onnxruntime-lowrank"),
    ("folded against no adapters, CUDA graphs", "pytorch-captured-weights", "pytorch-captured-floor"),
    ("low-rank against no adapters, CUDA graphs", "pytorch-captured-lowrank", "pytorch-captured-floor"),
    ("folded against LaVIN, folded", "onnxruntime-weights", "lavin-folded"),
    ("low-rank against LaVIN, folded", "onnxruntime-lowrank", "lavin-folded"),
    ("onnxruntime-genai against the base model", "onnxruntime-genai", "onnxruntime-plain"),
)

CAUSES = (
    ("skipping attention", "pytorch-unskipped", "pytorch-published"),
    ("folding", "pytorch-published", "pytorch-weights"),
    ("leaving eager mode", "pytorch-weights", "onnxruntime-weights"),
    ("all of it", "pytorch-unskipped", "onnxruntime-weights"),
)


class _Decoder:
    """Prepares a decoder's parts. The state after a prompt is made once: folded weights are large."""

    def __init__(self, runtime: Runtime, workload: Workload):
        self.runtime, self.workload = runtime, workload
        self.conversation = cache(self.read)

    def parts(self) -> dict[str, Prepare]:
        parts: dict[str, Prepare] = {PREFILL: self.prefill, FIRST: self.first, ANSWER: self.answer}
        if "vision" in self.runtime.sessions:
            parts[VISION] = self.vision
        if "fold" in self.runtime.sessions:
            parts[FOLD] = lambda: partial(self.runtime.run, "fold", self.conversation().state)
        for rows in self.workload.batches:
            if rows <= self.runtime.limits.max_batch:
                parts[DECODE.format(rows)] = lambda rows=rows: self.bind(rows, DECODE).run
        return parts | {FULL: lambda: self.bind(1, FULL).run}

    def vision(self) -> Work:
        spec, size = self.runtime.sessions["vision"].spec, self.runtime.config.vision.image_size
        pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        return self.runtime.bind("vision", {"pixel_values": pixels.to(getattr(torch, spec.inputs[0].dtype))}).run

    def prefill(self) -> Work:
        runtime, prompts = self.runtime, _prompts(self.runtime, 1, self.workload.prompt_tokens)
        features, folded = encode_images(runtime, prompts), set_of(runtime, prompts)
        return lambda: prefill(runtime, prompts, features, empty_caches(runtime, 1, self.slots(PREFILL)) | folded)

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
        """A step into the last slot. Each row has its own copy of one prompt's state: prefilling as many prompts would take more memory than
        the step."""
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
    """Random prompts, the same for every baseline."""
    ids = prompt_ids(runtime.config.vocab_size, rows, length)
    return Prompts(ids, torch.full((rows,), length), torch.full_like(ids, -1))


def parts(runtime: Runtime, workload: Workload) -> dict[str, Prepare]:
    return _Decoder(runtime, workload).parts()


DECODER = Kind(step=DECODE, parts=parts, baselines=BASELINES, claims=CLAIMS, causes=CAUSES, flops=DECODER_FLOPS)
