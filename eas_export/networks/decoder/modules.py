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
from .blocks import block_types, norm


class RotaryTables(nn.Module):
    def __init__(self, positions: int, dims: int):
        super().__init__()
        self.cos = nn.Parameter(torch.empty(positions, dims // 2))
        self.sin = nn.Parameter(torch.empty(positions, dims // 2))


class Decoder(nn.Module):
    """Embedding, the plan's blocks, final norm and head; a tied one is the embedding's table. `positions` is the length of the RoPE tables.

    scores  arguments of ops.attend and ops.attend_cached
    """

    def __init__(self, config: ModelConfig, plan: SkipPlan, positions: int):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        if config.modality_token:
            self.modality = nn.Embedding(2, config.dim)  # without image, with image
        for name, rope in zip(config.rope_names, config.ropes) if plan.kept else ():
            self.add_module(name, RotaryTables(positions, config.rope_dims(rope)))
        scores = {"scale": config.attention_scale, "softcap": config.attention_softcap}
        self.scores = {name: value for name, value in scores.items() if value is not None}
        windows = {i: config.attention_of(i).window for i in plan.kept}
        self.windows = {i: window for i, window in windows.items() if window and window < positions}
        kept, skipped = block_types(config)
        blocks = (skipped(config) if i in plan.skipped else kept(config) for i in range(plan.sites))
        self.layers = nn.ModuleList(blocks)
        self.norm = norm(config, config.dim)
        self.head = None if config.tied_head else linear(config.dim, config.vocab_size, bias=False)

    def embedding(self, ids: Tensor) -> Tensor:
        """ids [...] int64 -> [..., dim]"""
        x = self.embed(ids)
        return x if self.config.embedding_scale == 1 else x * self.config.embedding_scale

    def encode_positions(self, layer: int, q: Tensor, k: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """A kept layer's queries and keys, [B, heads or kv_heads, L, head_dim], as their products take them: normalised and turned by RoPE, where the
        layer has either. position_ids [B, L]"""
        attention, rope = self.layers[layer].attention, self.config.attention_of(layer).rope
        q, k = attention.q_norm(q), attention.k_norm(k)
        if rope is None:
            return q, k
        tables = self.get_submodule(self.config.rope_names[rope])
        interleaved = self.config.rope_interleaved
        return tuple(ops.rotate(x, tables.cos, tables.sin, position_ids, interleaved) for x in (q, k))

    def logits(self, x: Tensor) -> Tensor:
        """x [B, dim] -> [B, vocab] float32"""
        n = self.norm(x)
        if self.head is not None:
            logits = self.head(n)
        else:
            with within("head"):
                logits = F.linear(n, self.embed.weight)
        logits, cap = ops.wide(logits), self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


class DecoderNetwork(nn.Module):
    """decoder and, if the model has one, vision. Parameters have the names of the store, after a leading "decoder."."""

    def __init__(self, config: ModelConfig, plan: SkipPlan, limits: Limits):
        super().__init__()
        self.decoder = Decoder(config, plan, limits.max_tokens + config.prompt_position)
        if config.vision:
            self.vision = TOWERS[config.vision.features](config.vision, config.dim)
