"""Where an encode graph first leaves the reference: block by block, and then inside the first bad block.

Each block is judged alone: the reference's is given what the graph's own had in front of it, so an error that was made before does not
count.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...backends.contract import Backend
from ...backends.runtime import Runtime
from ...bundle.bundle import Bundle
from ...core.precision import Precision
from ...networks.adapter import Pool
from ...networks.cross_encoder.encode import PIXELS
from ...networks.cross_encoder.modules import CrossEncoder
from ...networks.cross_encoder.pairs import Pairs
from ..locate import relative_error
from ..staged_ledger import Fault
from .network import Block, blocks_of
from .taps import GRAPH, block_taps, run_tapped, stage_taps

BESIDE = {"text_layers": "image_layers", "image_layers": "text_layers"}


@dataclass(frozen=True)
class CrossSearch:
    """A bundle on a backend that opens tapped graphs, and what it should compute."""

    bundle: Bundle
    backend: Backend
    runtime: Runtime
    reference: CrossEncoder
    precision: Precision

    @torch.no_grad()
    def find(self, pairs: Pairs) -> Fault | None:
        """The first fault of its own that a part makes on one pair; None where no part does: then what differs has added up."""
        return next(self._faults(pairs), None)

    def _faults(self, pairs: Pairs) -> Iterator[Fault]:
        blocks = blocks_of(self.bundle.manifest.config)
        outputs, values = run_tapped(self.bundle, self.backend, self.runtime, pairs, block_taps(self.bundle, blocks))
        for block in blocks:
            if block.layer == 0 and (embedded := self._embedded(block, pairs, values)) is not None:
                error = relative_error(values[f"{block.name} in"], embedded)
                if not self._allowed(error):
                    yield Fault(GRAPH, None, f"{block.part}, embedding", error)
            module = self.reference.get_submodule(block.name)
            error = relative_error(values[block.name], module(*self._given(block, pairs, values)))
            if not self._allowed(error):
                yield self._inside(block, module, pairs, values, error)
        last = {row: values[f"{row}.{self.bundle.manifest.config.layers - 1}"] for row in BESIDE}
        for name, want in self._head(last).items():
            error = relative_error(outputs[name], want)
            if not self._allowed(error):
                yield Fault(GRAPH, None, name, error)

    def _given(self, block: Block, pairs: Pairs, values: dict[str, Tensor]) -> tuple:
        """What the reference's block is called with."""
        x = values[f"{block.name} in"]
        if block.row == "vision.blocks":
            return x, self.bundle.manifest.config.image_tokens
        mask = self.reference.mask(pairs.text_masks)
        if block.row == "text.layers":
            return x, mask
        mask = torch.cat([mask] * self.bundle.manifest.config.images)
        other = values[f"{BESIDE[block.row]}.{block.layer} in"]
        return (x, other, mask, None) if block.row == "text_layers" else (x, other, None, mask)

    def _embedded(self, block: Block, pairs: Pairs, values: dict[str, Tensor]) -> Tensor | None:
        """What the first block of a row should be given."""
        network, images = self.reference, self.bundle.manifest.config.images
        inputs = pairs.inputs(network.config, torch.float32)
        if block.row == "text.layers":
            return network.text.embed(inputs["text_ids"])
        if block.row == "vision.blocks":
            return network.vision.embed(torch.cat([inputs[name] for name in PIXELS[:images]]))
        if block.row == "text_layers":
            last = values[f"text.layers.{network.config.text.layers - 1}"]
            return torch.cat([network.enter_text(last)] * images).flatten(0, 1)
        last = values[f"vision.blocks.{network.config.image.blocks - 1}"]
        return network.enter_images(network.vision.last_norm(last)).flatten(0, 1)

    def _head(self, last: dict[str, Tensor]) -> dict[str, Tensor]:
        """The graph's outputs from what the last blocks gave."""
        network = self.reference
        pairs = network.pool(last["text_layers"], last["image_layers"])  # [images, 2 dim]
        cls_feats = pairs.flatten()[None]
        head = network.head(cls_feats)
        named = {"scores": head.squeeze(-1)} if network.config.task == "retrieval" else {"logits": head}
        return {"cls_feats": cls_feats} | named

    def _inside(
        self, block: Block, module: nn.Module, pairs: Pairs, values: dict[str, Tensor], error: float | None
    ) -> Fault:
        """The first bad stage of a bad block; the block itself where its stages are all right. What a pool gives is float32 in every
        precision and shows behind it."""
        wanted: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name, part in module.named_modules():
                if not list(part.children()) and ".adapter." not in name and not isinstance(part, Pool):
                    stage = name.replace(".part.", ".")  # an adapter stands before it in the reference

                    def keep(_: nn.Module, __: tuple, out: Tensor, stage: str = stage) -> None:
                        wanted[stage] = out

                    hooks.callback(part.register_forward_hook(keep).remove)
            module(*self._given(block, pairs, values))
        shapes = {stage: tuple(value.shape) for stage, value in wanted.items()}
        taps = stage_taps(self.bundle, block, shapes)
        _, got = run_tapped(self.bundle, self.backend, self.runtime, pairs, taps)
        for stage in wanted:
            if stage in got and not self._allowed(off := relative_error(got[stage], wanted[stage])):
                return Fault(GRAPH, block.layer, stage, off, block.part)
        return Fault(GRAPH, block.layer, "block", error, block.part)

    def _allowed(self, error: float | None) -> bool:
        return error is not None and error <= self.precision.block
