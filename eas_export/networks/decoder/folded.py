"""Linear layers with folded weights, which a graph takes as inputs: of one prompt, or of the modality that all its prompts have."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from ..recordable import within
from .blocks import Block

PREFIX = "folded."

# (layer, block, n [n, dim]) -> the outputs of the block's linear layers behind its adapter
ReadFolded = Callable[[int, Block, Tensor], tuple[Tensor, ...]]


def read_folded(inputs: Mapping[str, Tensor]) -> ReadFolded | None:
    """A block's linear layers with the folded weights among a graph's inputs; None where there are none."""
    if not any(name.startswith(PREFIX) for name in inputs):
        return None

    def read(layer: int, block: Block, n: Tensor) -> tuple[Tensor, ...]:
        def apply(part: str, x: Tensor) -> Tensor:
            name = f"layers.{layer}.{part}"
            with within(name):
                return F.linear(x, inputs[f"{PREFIX}{name}.weight"], inputs[f"{PREFIX}{name}.bias"])

        return block.read_folded(apply, n)

    return read
