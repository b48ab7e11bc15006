"""Run a cross-encoder on pairs of texts and images."""

from collections.abc import Callable, Iterable, Iterator

import torch

from ..backends.runtime import Runtime, Tensors
from ..networks.cross_encoder.encode import PIXELS
from ..networks.cross_encoder.pairs import Pairs


def encode(runtime: Runtime, pairs: Pairs, done: Callable[[int], None] = lambda count: None) -> Tensors:
    """Run the encode graph on all pairs, in batches of the runtime's limit. Returns its outputs on the CPU: logits [B, answers] or
    scores [B], and cls_feats [B, width], all float32. `done` is called with the size of each batch."""
    spec, size = runtime.sessions["encode"].spec, runtime.limits.max_batch
    parts = [pairs.part(first, first + size) for first in range(0, len(pairs), size)]
    results = []
    for result, part in zip(encode_each(runtime, parts), parts):
        results.append(result)
        done(len(part))
    return {tensor.name: torch.cat([result[tensor.name] for result in results]) for tensor in spec.outputs}


def encode_each(runtime: Runtime, batches: Iterable[Pairs]) -> Iterator[Tensors]:
    """The outputs of the encode graph on each batch, none of which is larger than the runtime's limit, on the CPU."""
    for batch in batches:
        outputs = runtime.run("encode", graph_inputs(runtime, batch))
        yield {name: value.cpu() for name, value in outputs.items()}


def graph_inputs(runtime: Runtime, pairs: Pairs) -> Tensors:
    """The encode graph's inputs, pixels in the runtime's dtype."""
    (dtype,) = (t.dtype for t in runtime.sessions["encode"].spec.inputs if t.name == PIXELS[0])
    return pairs.inputs(runtime.config, getattr(torch, dtype))
