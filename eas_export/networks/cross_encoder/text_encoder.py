"""RoBERTa's encoder: embeddings and post-norm layers, no pooler.

x = norm(word + position + type); per layer: a = norm(x + MHA(x)); x = norm(a + FFN(a))
"""

import torch
from torch import Tensor, nn

from ...core.configs.cross_encoder import TextConfig
from ..attention import FeedForward, SelfAttention

PADDING = 1  # RoBERTa's id and position of padding


class TextLayer(nn.Module):
    """One post-norm layer on texts of `tokens` tokens."""

    def __init__(self, config: TextConfig, tokens: int):
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads, tokens)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config.width, config.ffn_dim)
        self.ffn_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B*L, width]; mask [B, 1, 1, L] -> [B*L, width]"""
        a = self.attention_norm(x + self.attention(x, mask))
        return self.ffn_norm(a + self.ffn(a))


class TextEncoder(nn.Module):
    """text_ids [B, L] int64, mask [B, 1, 1, L], added to scores -> [B*L, width]; L is fixed."""

    def __init__(self, config: TextConfig, tokens: int):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.first_type = nn.Parameter(torch.empty(config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.layers = nn.ModuleList(TextLayer(config, tokens) for _ in range(config.layers))

    def embed(self, text_ids: Tensor) -> Tensor:
        """[B, L] int64 -> [B*L, width] before the first layer"""
        real = (text_ids != PADDING).long()
        places = real.cumsum(1) * real + PADDING  # [B, L]: real tokens count from 2
        return self.norm(self.words(text_ids) + self.positions(places) + self.first_type).flatten(0, 1)

    def forward(self, text_ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(text_ids)
        for layer in self.layers:
            x = layer(x, mask)
        return x
