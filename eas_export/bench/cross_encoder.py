"""A cross-encoder's rows for `bench`: its baselines, the comparisons between them, and the part that is timed."""

import torch

from ..backends.runtime import Runtime
from ..generation.encode import graph_inputs
from ..networks.cross_encoder.pairs import Pairs
from ..networks.cross_encoder.text_encoder import PADDING
from .baselines import Baseline, Kind, with_backends
from .roofline import CROSS_ENCODER_FLOPS
from .settings import Workload
from .stages import ENCODE, Prepare, Work

_ROWS = {
    "onnxruntime-offline": Baseline("offline", "onnxruntime", "ONNX Runtime, adapters folded at build time"),
    "onnxruntime-unskipped": Baseline("unskipped", "onnxruntime", "ONNX Runtime, every attention, adapters folded"),
    "pytorch-offline": Baseline("offline", "pytorch", "PyTorch eager, adapters folded at build time"),
    "pytorch-unskipped": Baseline("unskipped", "pytorch", "PyTorch eager, every attention, adapters folded"),
    "pytorch-compiled": Baseline("offline", "compiled", "torch.compile, adapters folded"),
    "pytorch-captured": Baseline("offline", "captured", "PyTorch's pass as a CUDA graph, adapters folded"),
}
BASELINES = with_backends(_ROWS, {"offline": "adapters folded at build time"})

CAUSES = (
    ("skipping attention", "pytorch-unskipped", "pytorch-offline"),
    ("leaving eager mode", "pytorch-offline", "onnxruntime-offline"),
    ("all of it", "pytorch-unskipped", "onnxruntime-offline"),
)


def parts(runtime: Runtime, workload: Workload) -> dict[str, Prepare]:
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


CROSS_ENCODER = Kind(step=ENCODE, parts=parts, baselines=BASELINES, claims=(), causes=CAUSES, flops=CROSS_ENCODER_FLOPS)
