"""The PIA adapter, its router and its pooling, in the stacked form of rewrite/fold.py."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AdapterConfig
from ..rewrite.fold import shift_by_pooled


class Adapter(nn.Module):
    """y = n + U h1 for tokens that each bring their prompt's mix weights and pooled feature (paper, Eq. 4-8)."""

    def __init__(self, dim: int, config: AdapterConfig):
        super().__init__()
        self.down = nn.Linear(dim, config.rank + 1)  # M1, m1
        self.up = nn.Parameter(torch.empty(dim, 2 * (config.rank + 1)))  # s [B | b | D | d]

    def forward(self, n: Tensor, router: Tensor, pooled: Tensor | None = None) -> Tensor:
        """n [n, dim]; router [n, 2] float32; pooled [n, rank] float32 for a skipped layer -> [n, dim]"""
        h1 = self.down(n)  # [n, rank + 1]
        if pooled is not None:
            h1 = h1 + shift_by_pooled(pooled).to(h1.dtype)
        mixed = router.to(h1.dtype)[:, :, None] * h1[:, None, :]  # [n, 2, rank + 1]
        return n + F.linear(mixed.flatten(1), self.up)


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
    """Give each of a row's `length` tokens the row's value: [B, k] -> [B*length, k]"""
    return value[:, None, :].expand(-1, length, -1).flatten(0, 1)
