"""The fold: a PIA adapter and the linear layer after it are one linear layer. Pure algebra, recorded as the graphs' nodes.

An adapter with inner map (M, m) and mix weights w = (w0, w1), w0 + w1 = 1, computes (paper, Eq. 4-8; published code)

    y = n + s [ w0 (B h + b) + w1 (D h + d) ],   h = M n + m        n [dim], h [rank], w [2]

A kept layer has (M, m) = (A, a); a skipped one (0.5 C, 0.5 (c + p)) with the pooled feature p of the prompt. It is stored as

    down = [M; 0; M; 0], [m; 1; m; 1]    so that down(n) = [h; 1; h; 1]        width = 2 (rank + 1)
    up   = s [B | b | D | d]

Unfolded, it takes two products:    y = n + up (v * down(n)),   v = spread(w) = [w0 .. w0, w1 .. w1]
Folded, it takes none. With one half of down, M1 = [M; 0] and m1 = [m; 1], and U = w0 up[:, :rank+1] + w1 up[:, rank+1:], it is
y = n + U (M1 n + m1), and a linear layer W on y reads n directly:

    W' = W + (W U) M1,   b' = b + (W U) m1        because W y + b = W n + W U (M1 n + m1) + b
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def stack_inner(matrix: Tensor) -> Tensor:
    """down's matrix [M; 0; M; 0]: [rank, dim] -> [2 (rank + 1), dim]"""
    return torch.cat([matrix, torch.zeros_like(matrix[:1])]).repeat(2, 1)


def stack_inner_bias(bias: Tensor) -> Tensor:
    """down's bias [m; 1; m; 1]: [rank] -> [2 (rank + 1)]"""
    return torch.cat([bias, torch.ones_like(bias[:1])]).repeat(2)


def stack_outer(b_matrix: Tensor, b_bias: Tensor, d_matrix: Tensor, d_bias: Tensor, scale: float) -> Tensor:
    """up = s [B | b | D | d]: [dim, rank], [dim], [dim, rank], [dim] -> [dim, 2 (rank + 1)]"""
    return scale * torch.cat([b_matrix, b_bias[:, None], d_matrix, d_bias[:, None]], dim=1)


def spread(router: Tensor, width: int) -> Tensor:
    """v: each router weight, repeated for its half of down(n): [..., 2] -> [..., width]"""
    return router[..., None].expand(*router.shape, width // 2).flatten(-2)


def pooled_shift(pooled: Tensor) -> Tensor:
    """What the pooled feature adds to down's bias [0.5 c; 1; 0.5 c; 1] in a skipped layer: [..., rank] -> [..., 2 (rank + 1)]"""
    half = F.pad(0.5 * pooled, (0, 1))
    return torch.cat([half, half], -1)


def shifted_bias(bias: Tensor, shift: Tensor) -> Tensor:
    """down's bias of a skipped layer with what the pooled feature adds to it, rounded once: [...], [..., width] float32 -> [..., width]"""
    return (bias.float() + shift).to(bias.dtype)


def mix(up: Tensor, router: Tensor) -> Tensor:
    """U: the outer matrix for one prompt, in float32 (or wider, where up is).

    up      [dim, 2 (rank + 1)]
    router  [2] float32
    returns [dim, rank + 1] float32
    """
    wide = up.to(torch.promote_types(up.dtype, torch.float32))
    return (wide.unflatten(1, (2, -1)) * router[:, None]).sum(1)


def fold_bias(weight: Tensor, outer: Tensor, inner: Tensor, inner_bias: Tensor) -> Tensor:
    """b' of `fold_linear`, without the work for W': arguments and dtypes as there -> [out]"""
    return (weight @ outer.to(weight.dtype)) @ inner_bias


def fold_linear(
    weight: Tensor, outer: Tensor, inner: Tensor, inner_bias: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The linear layer after an adapter, with the adapter folded in.

    weight      [out, dim]        W; for gate and up of a skipped layer already W diag(ffn_norm.weight)
    outer       [dim, rank + 1]   U, from `mix`
    inner       [rank + 1, dim]   M1, one half of down
    inner_bias  [rank + 1]        m1, one half of down's bias
    bias        [out]             b, None without one
    returns     W' [out, dim] and b' [out], in weight's dtype
    """
    product = weight @ outer.to(weight.dtype)  # [out, rank + 1]
    own = product @ inner_bias  # [out]
    return weight + product @ inner, own if bias is None else bias + own
