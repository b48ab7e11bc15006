"""The operators of networks/ops.py (except gemm: layers.py): each call becomes one node."""

from torch import Tensor

from ...networks import ops
from ..graph_writer import GraphWriter
from .reshaping import expand
from .table import like, rule


@rule(ops.rms_norm)
def rms_norm(w: GraphWriter, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """ops.rms_norm -> RMSNormalization, which divides in float32"""
    return w.node("RMSNormalization", [x, weight], like(x), axis=-1, epsilon=float(eps))


@rule(ops.swish)
def swish(w: GraphWriter, x: Tensor, alpha: float = 1.0) -> Tensor:
    """ops.swish -> Swish"""
    return w.node("Swish", [x], like(x), alpha=float(alpha))


@rule(ops.rotate)
def rotate(w: GraphWriter, x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor, interleaved: bool) -> Tensor:
    """ops.rotate -> RotaryEmbedding"""
    inputs, dims = [x, cos, sin, position_ids], 2 * cos.shape[1]
    partial = {"rotary_embedding_dim": dims} if dims < x.shape[-1] else {}
    return w.node("RotaryEmbedding", inputs, like(x), interleaved=int(interleaved), **partial)


@rule(ops.attend)
def attend(
    w: GraphWriter,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """ops.attend -> Attention; a mask of one row is expanded over queries, since ONNX Runtime 1.32 broadcasts rows and heads only"""
    inputs = [q, k, v]
    if mask is not None:
        inputs.append(expand(w, mask, -1, -1, q.shape[2], -1) if mask.shape[2] == 1 else mask)
    return w.node("Attention", inputs, like(q), is_causal=int(causal), **_scores(scale, softcap))


@rule(ops.attend_cached)
def attend_cached(
    w: GraphWriter,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """ops.attend_cached -> Attention; nonpad_kv_seqlen limits how much of the cache it reads"""
    inputs = [q, k_cache, v_cache, mask, None, None, lengths]
    return w.node("Attention", inputs, like(q), is_causal=0, **_scores(scale, softcap))


def _scores(scale: float | None, softcap: float | None) -> dict[str, float]:
    """Attention's attributes of what is done to its scores; those of None are its defaults."""
    given = {"scale": scale, "softcap": softcap}
    return {name: float(value) for name, value in given.items() if value is not None}


@rule(ops.scatter_cache)
def scatter_cache(w: GraphWriter, cache: Tensor, update: Tensor, slots: Tensor) -> Tensor:
    """ops.scatter_cache -> TensorScatter; the old cache must not be read again"""
    written = w.node("TensorScatter", [cache, update, slots], like(cache), axis=-2, mode="linear")
    w.overwrite(cache)
    return written
