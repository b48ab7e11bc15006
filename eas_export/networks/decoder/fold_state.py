"""The fold state in the form that adapters read, computed for all layers at once: few nodes for any number of layers."""

import torch
from torch import Tensor

from ..fold import pooled_shift, shifted_bias
from .blocks import SkippedBlock
from .modules import Decoder


def spread_routers(decoder: Decoder, router: Tensor) -> list[Tensor]:
    """Each layer's v [B, width], the router's weights spread: router [B, layers, 2] float32"""
    kinds = {type(block): block.adapter for block in decoder.layers}
    spread = {kind: adapter.spread(router).flatten(1).chunk(len(decoder.layers), 1) for kind, adapter in kinds.items()}
    return [spread[type(block)][layer] for layer, block in enumerate(decoder.layers)]


def shifted_biases(decoder: Decoder, pooled: Tensor | None) -> dict[int, Tensor]:
    """Skipped layer -> its down's bias [B, width], shifted by the prompt's pooled feature: pooled [B, skipped, rank] float32"""
    skipped = {layer: block.adapter for layer, block in enumerate(decoder.layers) if isinstance(block, SkippedBlock)}
    if pooled is None:
        return {}
    own = torch.cat([adapter.down.bias for adapter in skipped.values()])  # [skipped*width]
    biases = shifted_bias(own, pooled_shift(pooled).flatten(1))  # [B, skipped*width]
    return dict(zip(skipped, biases.chunk(len(skipped), 1)))
