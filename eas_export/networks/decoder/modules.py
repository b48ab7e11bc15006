"""The decoder: embedding, blocks, norm and head, and its vision tower."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.configs.decoder import ModelConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan
from .. import ops
from ..recordable import within
from ..skeleton import linear
from ..vision import TOWERS
from .blocks import RMSNorm, block_types


class RotaryTables(nn.Module):
    def __init__(self, positions: int, head_dim: int):
        super().__init__()
        self.cos = nn.Parameter(torch.empty(positions, head_dim // 2))
        self.sin = nn.Parameter(torch.empty(positions, head_dim // 2))


class Decoder(nn.Module):
    """Embedding, the plan's blocks, final norm and head; a tied one is the embedding's table. `positions` is the length of the RoPE tables."""

    def __init__(self, config: ModelConfig, plan: SkipPlan, positions: int):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        if config.modality_token:
            self.modality = nn.Embedding(2, config.dim)  # without image, with image
        if plan.kept:
            self.rope = RotaryTables(positions, config.head_dim)
        kept, skipped = block_types(config)
        blocks = (skipped(config) if i in plan.skipped else kept(config) for i in range(plan.sites))
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = None if config.tied_head else linear(config.dim, config.vocab_size, bias=False)

    def rotate(self, x: Tensor, position_ids: Tensor) -> Tensor:
        """RoPE: x [B, H, L, head_dim], position_ids [B, L]"""
        return ops.rotate(x, self.rope.cos, self.rope.sin, position_ids, self.config.rope_interleaved)

    def logits(self, x: Tensor) -> Tensor:
        """x [B, dim] -> [B, vocab] float32"""
        n = self.norm(x)
        if self.head is not None:
            return self.head(n).float()
        with within("head"):
            product = F.linear(n, self.embed.weight)
        return product.float()


class DecoderNetwork(nn.Module):
    """decoder and, if the model has one, vision. Parameters have the names of the store, after a leading "decoder."."""

    def __init__(self, config: ModelConfig, plan: SkipPlan, limits: Limits):
        super().__init__()
        self.decoder = Decoder(config, plan, limits.max_tokens + config.prompt_position)
        if config.vision:
            self.vision = TOWERS[config.vision.features](config.vision, config.dim)
