"""Multi-head attention with biases, of a stream on itself or on another, and the feed-forward network of the encoders.

Tokens are flat, [rows * tokens, width]; the number per row is fixed when a module is built.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from .skeleton import linear


class Attention(nn.Module):
    """Projections q, k, v and o, and attention with `heads` heads."""

    def __init__(self, width: int, heads: int, tokens: int, other_tokens: int):
        super().__init__()
        self.heads, self.tokens, self.other_tokens = heads, tokens, other_tokens
        self.q = linear(width, width)
        self.k = linear(width, width)
        self.v = linear(width, width)
        self.o = linear(width, width)

    def attend(self, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """Queries of x [B*tokens, width], keys and values of other [B*other_tokens, width]; mask [B, 1, 1, other_tokens] is added
        to the scores -> [B*tokens, width]"""
        q = self._heads(self.q(x), self.tokens)  # [B, heads, tokens, head_dim]
        k, v = (self._heads(part(other), self.other_tokens) for part in (self.k, self.v))
        attended = ops.attend(q, k, v, causal=False, mask=mask)  # [B, heads, tokens, head_dim]
        return self.o(attended.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor, tokens: int) -> Tensor:
        """[B*tokens, width] -> [B, heads, tokens, head_dim]"""
        return x.view(-1, tokens, self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class SelfAttention(Attention):
    """x [B*tokens, width] on itself; mask [B, 1, 1, tokens] or None -> as x"""

    def __init__(self, width: int, heads: int, tokens: int):
        super().__init__(width, heads, tokens, tokens)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.attend(x, x, mask)


class CrossAttention(Attention):
    """One stream, [B*tokens, width], on the other, [B*other_tokens, width]; mask [B, 1, 1, other_tokens] or None -> as x"""

    def forward(self, a: Tensor, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """Queries come from a, the layer's input x after self-attention."""
        return self.attend(a, other, mask)


class FeedForward(nn.Module):
    """fc2(gelu(fc1 z))"""

    def __init__(self, width: int, ffn_dim: int):
        super().__init__()
        self.fc1 = linear(width, ffn_dim)
        self.fc2 = linear(ffn_dim, width)

    def forward(self, z: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(z)))
