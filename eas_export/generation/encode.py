"""Texts and images that a cross-encoder looks at together, and its answers to them."""

from collections.abc import Callable

import torch

from ..backends.runtime import Runtime, Tensors
from ..networks.cross_encoder.encode import PIXELS
from ..networks.cross_encoder.pairs import Pairs


def encode(runtime: Runtime, pairs: Pairs, done: Callable[[int], None] = lambda count: None) -> Tensors:
    """Every output of the encode graph for all pairs, as many at once as the runtime takes, on the CPU: logits [B, answers] or
    scores [B], and cls_feats [B, width], all float32. `done` is told of each batch."""
    spec, size = runtime.sessions["encode"].spec, runtime.limits.max_batch
    parts = [pairs.part(first, first + size) for first in range(0, len(pairs), size)]
    results = []
    for part in parts:
        results.append(runtime.run("encode", graph_inputs(runtime, part)))
        done(len(part))
    return {tensor.name: torch.cat([result[tensor.name].cpu() for result in results]) for tensor in spec.outputs}


def graph_inputs(runtime: Runtime, pairs: Pairs) -> Tensors:
    """The encode graph's inputs, in the dtype in which the runtime takes pixels."""
    (dtype,) = (t.dtype for t in runtime.sessions["encode"].spec.inputs if t.name == PIXELS[0])
    return pairs.inputs(runtime.config, getattr(torch, dtype))
