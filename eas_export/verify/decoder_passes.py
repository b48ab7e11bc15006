"""A decoder's prefill and decode graphs beside the reference's blocks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..backends.runtime import Tensors
from ..core.plan import SkipPlan
from ..networks.decoder.blocks import AdaptedSkippedBlock
from ..networks.decoder.decode import decode_block, through_adapters, window_masks, without_adapters
from ..networks.decoder.folded import read_folded
from ..networks.decoder.prefill import start_reading
from ..networks.decoder.prompts import Prompts
from .locate import Pass, watched
from .metrics import relative_error
from .reference import Reference
from .taps import GIVEN, Block

HEADS = "attention.o"  # its input is the attention's output
STAGES = {  # a place in a block -> its name in reports, where that is another
    "pool": "pooled",
    "attention.q": "q",
    "attention.k": "k",
    "attention.v": "v",
    HEADS + GIVEN: "attention",
    HEADS: "o",
    "ffn_norm": "ffn norm",
    "ffn.gate": "gate",
    "ffn.up": "up",
    "ffn.down": "down",
}


def make_blocks(plan: SkipPlan) -> list[Block]:
    return [Block(f"layers.{i}", i, "skipped" if i in plan.skipped else "kept") for i in range(plan.sites)]


class DecoderPass(Pass):
    """inputs: the graph's own; unfolded: the reference's, with the fold state instead of folded weights"""

    embedded: Tensor  # before the first block, [rows, dim] float32

    def __init__(self, reference: Reference, inputs: Tensors, unfolded: Tensors):
        self.reference, self.network, self.inputs = reference, reference.network, inputs
        self.unfolded = {name: t.float() if t.is_floating_point() else t for name, t in unfolded.items()}
        self.blocks = make_blocks(reference.plan)

    def entry(self, block: Block, values: Tensors) -> Tensor:
        return self.embedded

    def stage(self, block: Block, place: str) -> str:
        if place.startswith("present."):
            return f"{place.rpartition('.')[2]} cache"
        name = super().stage(block, place)
        return STAGES.get(name, name)

    @contextmanager
    def block(self, block: Block) -> Iterator[tuple[nn.Module, Tensors]]:
        """A context with the reference's block, loaded, and the stages that it records."""
        with self.network.loaded(block.path, self.network.layers[block.layer]) as module:
            with watched(module, block.path, [HEADS]) as stages:
                yield module, stages

    def finish(self, values: Tensors) -> Iterator[tuple[str, Tensor, Tensor]]:
        last = self.last_tokens(values[self.blocks[-1].output])
        yield "head", values["logits"], self.network.decoder.logits(last)

    def last_tokens(self, x: Tensor) -> Tensor:
        """The tokens whose logits the graph returns: [rows, dim] -> [B, dim]"""
        return x


class Prefill(DecoderPass):
    """inputs: with the caches; unfolded: without"""

    graph = "prefill"

    def __init__(self, reference: Reference, inputs: Tensors, unfolded: Tensors, prompts: Prompts):
        super().__init__(reference, inputs, unfolded)
        self.lengths, (self.batch, self.length) = prompts.prompt_lengths, prompts.input_ids.shape
        self.prefix = reference.config.prefix

    def shape(self, block: Block) -> Sequence[int]:
        return self.batch * (self.prefix + self.length), self.reference.config.dim

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        with self.network.surroundings():
            self.embedded, self.reading = start_reading(self.network.decoder, self.unfolded)
            yield

    def replay(self, block: Block, values: Tensors) -> Tensors:
        with self.block(block) as (module, seen):

            def keep(layer: int, key: Tensor, value: Tensor) -> None:
                seen.update({f"present.{layer}.key": key, f"present.{layer}.value": value})

            seen[block.output], _ = self.reading.block(block.layer, module, values[block.input], keep)
        return seen

    def stages_in(self, outputs: Tensors) -> Tensors:
        found = {name: value for name, value in outputs.items() if name.startswith("present.")}
        if "router" in outputs:
            found |= {f"{block.path}.router": outputs["router"][:, block.layer] for block in self.blocks}
        skipped = self.reference.plan.skipped if "pooled" in outputs else ()
        return found | {f"layers.{layer}.pool": outputs["pooled"][:, i] for i, layer in enumerate(skipped)}

    def error(self, place: str, got: Tensor, want: Tensor, unit: float) -> float | None:
        """The error without padding."""
        if place.endswith((".router", ".pool")):
            return relative_error(got, want, smallest=1.0)
        inside = torch.arange(self.length) < self.lengths[:, None]  # [B, S]
        if place.startswith("present."):  # [tokens, H, head_dim]
            got, want = (cache[:, :, : self.length].transpose(1, 2)[inside] for cache in (got, want))
        else:
            real = torch.cat([torch.ones(self.batch, self.prefix, dtype=torch.bool), inside], 1).flatten()
            got, want = got[real], want[real]
        return relative_error(got, want, unit)

    def last_tokens(self, x: Tensor) -> Tensor:
        rows = torch.arange(self.batch) * (self.length + self.prefix)
        return x[rows + self.prefix + self.lengths - 1]


class Decode(DecoderPass):
    """unfolded: with the caches before the step, which are written to"""

    graph = "decode"

    def shape(self, block: Block) -> Sequence[int]:
        return len(self.inputs["input_ids"]), self.reference.config.dim

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        with self.network.surroundings():
            self.embedded = self.network.decoder.embedding(self.unfolded["input_ids"].flatten())
            yield

    def replay(self, block: Block, values: Tensors) -> Tensors:
        layer, inputs = block.layer, self.unfolded
        with self.block(block) as (module, seen):
            project = read_folded(inputs) or without_adapters
            if "router" in inputs:
                biases = {}
                if isinstance(module, AdaptedSkippedBlock):
                    pooled = inputs["pooled"][:, self.reference.plan.skipped.index(layer)]
                    biases = {layer: module.adapter.shifted_bias(pooled)}
                project = through_adapters({layer: module.adapter.spread(inputs["router"][:, layer])}, biases)
            x, decoder = values[block.input], self.network.decoder
            masks = window_masks(decoder, inputs)
            seen[block.output] = decode_block(decoder, layer, module, x, inputs, masks, project, seen)
        return seen
