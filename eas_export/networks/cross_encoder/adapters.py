"""The adapters of a cross-encoder.

P(x) = up(f(down(n(x))))                               n a LayerNorm or nothing, f ReLU or nothing, as the config says
R(x0, x1) = up(0.5 (C x0 + c + mean(A x1 + a)))        in place of an attention of x0 on x1; the mean is over all tokens

x + P(x) before a part folds away where P is linear. R is stored as down = 0.5 C, pool = (0.5 A, 0.5 (a + c)), up = (B, b):
R(x0, x1) = up(down x0 + pool(mean x1)).
"""

from torch import Tensor, nn

from ...core.configs.cross_encoder import BottleneckConfig
from .. import ops
from ..adapter import Pool, per_token

ACTIVATIONS = {"none": nn.Identity, "relu": nn.ReLU}


class Bottleneck(nn.Module):
    """P: [n, width] -> [n, width]

    bare  its norm's weight and bias are folded into `down`
    """

    def __init__(self, width: int, config: BottleneckConfig, bare: bool):
        super().__init__()
        eps = config.norm_eps
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=not bare) if eps else nn.Identity()
        self.down = nn.Linear(width, config.rank)
        self.activation = ACTIVATIONS[config.activation]()
        self.up = nn.Linear(config.rank, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.activation(self.down(self.norm(x))))


class BehindAdapter(nn.Module):
    """A part that reads x + P(x) in place of x, as in the published code."""

    def __init__(self, part: nn.Module, adapter: Bottleneck):
        super().__init__()
        self.adapter, self.part = adapter, part

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        return self.part(x + self.adapter(x), *others)


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
