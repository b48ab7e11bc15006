"""The adapters of a cross-encoder: one before a part, which folds away, and one in place of a skipped attention.

F(x) = x + B(C x + c) + b                              before attentions and feed-forward networks
R(x0, x1) = B(0.5 (C x0 + c + mean(A x1 + a))) + b     in place of an attention of x0 on x1; the mean is over all tokens

R is stored as down = 0.5 C, pool = (0.5 A, 0.5 (a + c)), up = (B, b): R(x0, x1) = up(down x0 + pool(mean x1)).
"""

from torch import Tensor, nn

from .. import ops
from ..adapter import Pool, per_token


class InputAdapter(nn.Module):
    """F: [n, width] -> [n, width]"""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


class BehindAdapter(nn.Module):
    """A part that reads F(x) in place of x, unfolded, as in the published code."""

    def __init__(self, part: nn.Module, width: int, rank: int):
        super().__init__()
        self.adapter, self.part = InputAdapter(width, rank), part

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        return self.part(self.adapter(x), *others)


class Replacement(nn.Module):
    """R, in place of an attention of a stream with `tokens` tokens on one with `other_tokens`."""

    def __init__(self, width: int, rank: int, tokens: int, other_tokens: int):
        super().__init__()
        self.tokens, self.other_tokens = tokens, other_tokens
        self.down = nn.Linear(width, rank, bias=False)
        self.pool = Pool(width, rank)
        self.up = nn.Linear(rank, width)

    def mix(self, x: Tensor, other: Tensor) -> Tensor:
        """x [B*tokens, width], other [B*other_tokens, width] -> [B*tokens, width]"""
        mean = other.unflatten(0, (-1, self.other_tokens)).float().mean(1)  # [B, width], padding too
        bias = self.pool(mean).to(x.dtype)  # [B, rank]
        return self.up(ops.gemm(x, self.down.weight, per_token(bias, self.tokens)))


class SelfReplacement(Replacement):
    """R(x, x), in place of a self-attention: x [B*tokens, width] -> the same; the mask is not read"""

    def __init__(self, width: int, rank: int, tokens: int):
        super().__init__(width, rank, tokens, tokens)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.mix(x, x)


class CrossReplacement(Replacement):
    """R(x, other), in place of a cross-attention: [B*tokens, width], [B*other_tokens, width] -> as x"""

    def forward(self, a: Tensor, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """Reads the layer's input x, not a, which is x after self-attention."""
        return self.mix(x, other)
