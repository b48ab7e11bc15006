"""One block of the reference on inputs that somebody else's block had: what it gives, stage by stage.

An error that was made before does not count: whoever differs here made an error of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends.runtime import Tensors
from ..networks.decoder.decode import decode_block, through_adapters, without_adapters
from ..networks.decoder.modules import SkippedBlock
from ..networks.decoder.prefill import start_reading
from .reference import Reference
from .stages import OUT, watched

Stages = dict[str, Tensor]  # stage -> what it gives, [rows, width]; caches [B, H, slots, head_dim]


@dataclass(frozen=True)
class Replay:
    """given: layer -> what its block had as input [rows, dim] float32. Only these layers' weights are read."""

    reference: Reference
    given: Mapping[int, Tensor]

    @torch.no_grad()
    def prefill(self, inputs: Tensors) -> Iterator[tuple[int, Stages]]:
        """inputs: the prefill graph's own, without caches, in float32. Caches hold the prompt's own slots."""
        network = self.reference.network
        with network.surroundings():
            embedded, reading = start_reading(network.decoder, inputs)
            yield -1, {OUT: embedded}
            for layer, x in self.given.items():
                caches: Stages = {}

                def keep(layer: int, key: Tensor, value: Tensor, caches: Stages = caches) -> None:
                    caches.update({"key cache": key, "value cache": value})

                with network.loaded(f"layers.{layer}", network.layers[layer]) as block, watched(block) as stages:
                    out, tokens = reading.block(layer, block, x, keep)
                state = {name: value for name, value in vars(tokens.state).items() if value is not None}
                yield layer, stages | state | caches | {OUT: out}

    @torch.no_grad()
    def decode(self, inputs: Tensors) -> Iterator[tuple[int, Stages]]:
        """inputs: the unfolded decode graph's own, in float32, with the fold state and the caches before the step; these are written."""
        network, skipped = self.reference.network, self.reference.plan.skipped
        with network.surroundings():
            yield -1, {OUT: network.decoder.embed(inputs["input_ids"].flatten())}
            for layer, x in self.given.items():
                caches: Tensors = {}
                with network.loaded(f"layers.{layer}", network.layers[layer]) as block, watched(block) as stages:
                    project = without_adapters
                    if "router" in inputs:
                        spread = block.adapter.spread(inputs["router"][:, layer])
                        biases = {}
                        if isinstance(block, SkippedBlock):
                            biases = {layer: block.adapter.shifted_bias(inputs["pooled"][:, skipped.index(layer)])}
                        project = through_adapters({layer: spread}, biases)
                    out = decode_block(network.decoder, layer, block, x, inputs, project, caches)
                named = {f"{name.rpartition('.')[2]} cache": cache for name, cache in caches.items()}
                yield layer, stages | named | {OUT: out}

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """What the reference makes of the last block's output [n, dim]: [n, vocab] float32."""
        with self.reference.network.surroundings():
            return self.reference.network.decoder.logits(x)
