"""Standard ONNX operators that torch has no single function for, in PyTorch.

The graph recorder writes each call as the operator of that name (export/rules/fused.py). Sources: the ONNX operator specifications of
Gemm-13, RMSNormalization-23, RotaryEmbedding-23, Attention-24, TensorScatter-24 and Swish-24.
"""

import torch
from torch import Tensor

from .recordable import recordable

MOST_SCORES = 1 << 24  # numbers: 64 MB


def wide(x: Tensor) -> Tensor:
    """x in float32, or wider where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@recordable
def gemm(x: Tensor, weight: Tensor, onto: Tensor) -> Tensor:
    """x weight^T + onto, one for all tokens or one per token: x [n, in], weight [out, in], onto [out] or [n, out] -> [n, out]"""
    return torch.addmm(onto, x, weight.T)


@recordable
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis; the division is done in float32. x [..., dim], weight [dim]."""
    w = wide(x)
    return (w * torch.rsqrt(w.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


@recordable
def swish(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x * sigmoid(alpha x): SiLU for alpha 1, QuickGELU for 1.702."""
    return x * torch.sigmoid(alpha * x)


@recordable
def rotate(x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor, interleaved: bool) -> Tensor:
    """RoPE of a head's first `dims` numbers. x [B, H, L, head_dim]; cos, sin [positions, dims/2]; position_ids [B, L]."""
    c, s = cos[position_ids].unsqueeze(1), sin[position_ids].unsqueeze(1)  # [B, 1, L, dims/2]
    dims = 2 * cos.shape[1]
    if dims < x.shape[-1]:
        return torch.cat([rotate(x[..., :dims], cos, sin, position_ids, interleaved), x[..., dims:]], -1)
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
        return torch.stack([first * c - second * s, second * c + first * s], dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * c - second * s, second * c + first * s], dim=-1)


@recordable
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax attention over new keys and values: q [B, H, L, head_dim]; k, v [B, kv_heads, keys, head_dim] -> [B, H, L, head_dim]

    mask     broadcasts to [B, 1, L, keys]: bool, where scores count, or of q's dtype, added to the scores; None: no mask
    scale    of the scores; None: 1 / sqrt(head_dim)
    softcap  c of c tanh(score / c), before the mask; None: scores are not bounded
    """
    k, v = (repeat_heads(part, q.shape[1]) for part in (k, v))
    heads = max(
        1, MOST_SCORES // (q.shape[0] * q.shape[2] * k.shape[2])
    )  # at a time: their scores are in memory together
    parts = zip(*(tensor.split(heads, 1) for tensor in (q, k, v)))
    return torch.cat([_attend(*part, causal, mask, scale, softcap) for part in parts], 1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None, scale: float | None, softcap: float | None
) -> Tensor:
    scores = _scores(q, k, scale, softcap)  # [B, H, L, keys]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return torch.softmax(wide(scores), -1).to(q.dtype) @ v


@recordable
def attend_cached(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """One new token's attention over the first `lengths` slots of a cache, or over those of them that mask [B, 1, 1, T] bool names.

    q [B, H, 1, head_dim]; k_cache, v_cache [B, kv_heads, T, head_dim]; lengths [B] int64 -> [B, H, 1, head_dim]
    scale, softcap  as for `attend`
    """
    k_cache, v_cache = (repeat_heads(part, q.shape[1]) for part in (k_cache, v_cache))
    scores = _scores(q, k_cache, scale, softcap)  # [B, H, 1, T]
    if mask is None:
        mask = (torch.arange(k_cache.shape[2], device=q.device) < lengths[:, None])[:, None, None]  # [B, 1, 1, T]
    scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(wide(scores), -1).to(q.dtype) @ v_cache


@recordable
def scatter_cache(cache: Tensor, update: Tensor, slots: Tensor) -> Tensor:
    """The cache with row b's `update` written from slot `slots[b]` on. In place, as in graphs that are run.

    cache [B, H, T, head_dim], update [B, H, L, head_dim], slots [B] int64 -> [B, H, T, head_dim]
    """
    rows = torch.arange(cache.shape[0], device=cache.device)[:, None]  # [B, 1]
    written = slots[:, None] + torch.arange(update.shape[2], device=cache.device)  # [B, L]
    cache[rows, :, written] = update.transpose(1, 2)  # slots stay on the device: a step does not wait for the host
    return cache


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat every head for its group of query heads: [B, kv_heads, L, head_dim] -> [B, heads, L, head_dim]"""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _scores(q: Tensor, k: Tensor, scale: float | None, softcap: float | None) -> Tensor:
    """q k^T, scaled and bounded. q is scaled, not the cache of keys, and before the product, which might overflow in fp16 otherwise."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)
