"""The PIA adapter, its router and its pooling, in the stacked form of networks/fold.py. width is 2 (rank + 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.configs.adapter import AdapterConfig
from . import ops
from .fold import mix, pooled_shift, shifted_bias, spread


class Adapter(nn.Module):
    """y = n + up (v * down(n)), where each token has its prompt's v and, in a skipped layer, its prompt's bias of down (paper, Eq. 4-8)."""

    def __init__(self, dim: int, config: AdapterConfig):
        super().__init__()
        self.width = 2 * (config.rank + 1)
        self.down = nn.Linear(dim, self.width)  # [M; 0; M; 0], [m; 1; m; 1]
        self.up = nn.Parameter(torch.empty(dim, self.width))  # s [B | b | D | d]

    def forward(self, n: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """n [n, dim]; v [n, width]; bias [n, width], None for down's own; all of n's dtype -> [n, dim]"""
        h1 = ops.gemm(n, self.down.weight, self.down.bias if bias is None else bias)  # [n, width]
        return ops.gemm(v * h1, self.up, n)

    def spread(self, router: Tensor) -> Tensor:
        """v: router [..., 2] float32 -> [..., width]"""
        return spread(router.to(self.up.dtype), self.width)

    def shifted_bias(self, pooled: Tensor) -> Tensor:
        """down's bias of a skipped layer with the prompt's pooled feature in it: [..., rank] float32 -> [..., width]"""
        return shifted_bias(self.down.bias, pooled_shift(pooled))


class Change(Adapter):
    """y = up (v * down(n)): an adapter without n itself."""

    def forward(self, n: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        h1 = ops.gemm(n, self.down.weight, self.down.bias if bias is None else bias)  # [n, width]
        return F.linear(v * h1, self.up)


def fold_factors(adapter: Adapter, router: Tensor, down_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An adapter as the last arguments of networks.fold.fold_linear: outer [dim, rank + 1] float32, inner [rank + 1, dim] and its bias
    [rank + 1]. router [2] float32; down_bias [width]"""
    half = adapter.width // 2  # rank + 1
    return mix(adapter.up, router), adapter.down.weight[:half], down_bias[:half]


class Router(nn.Module):
    """w = softmax(E mean + e), once per prompt, in float32; the temperature is inside E and e (paper, Eq. 6)."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, dim, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(2, dtype=torch.float32))

    def forward(self, mean: Tensor) -> Tensor:
        """mean [B, dim] float32 -> [B, 2] float32"""
        return torch.softmax(F.linear(mean, self.weight, self.bias), dim=-1)


class Pool(nn.Module):
    """p = A mean + a, once per prompt, in float32: the mean of A n + a over the prompt (paper, Eq. 4)."""

    def __init__(self, dim: int, rank: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rank, dim, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(rank, dtype=torch.float32))

    def forward(self, mean: Tensor) -> Tensor:
        """mean [B, dim] float32 -> [B, rank] float32"""
        return F.linear(mean, self.weight, self.bias)


def mean_over(tokens: Tensor, weights: Tensor) -> Tensor:
    """A weighted mean over positions, in float32: [B, L, dim], [B, L] float32 that sum to 1 over L -> [B, dim]"""
    return (tokens.float() * weights[:, :, None]).sum(1)


def per_token(value: Tensor, length: int) -> Tensor:
    """Repeat each row's value for its `length` tokens: [B, k] -> [B*length, k]"""
    return value[:, None, :].expand(-1, length, -1).flatten(0, 1)
