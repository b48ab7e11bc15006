"""The decoder's blocks. Skipped blocks are built without attention; no flag switches it off.

    kept           x - norm - n - adapter - y - q,k,v - RoPE - attention - o - (+x) - x1 - ffn_norm - FFN - (+x1) - out
                   sandwich norms stand behind o and behind the FFN, of any block
    skipped        x - norm - n - adapter - y ------------------------------------------------------- FFN - (+x)  - out
    skipped layer  x - norm - n - adapter - y ------------------------------------------------------------- (+x)  - out

The blocks work on tokens [n, dim]. Prefill computes a prompt's state (`adapt`); decoding takes that state, or weights into which it was
folded. Adapters whose router depends on the prompt's modality alone are constants, or folded into weights of two sets: one for prompts
with an image, one for those without.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.configs.decoder import ModelConfig
from .. import ops
from ..adapter import Adapter, Change, Pool, fold_factors, per_token
from ..fold import fold_linear
from ..skeleton import linear
from .routers import ROUTERS, Prompt


@dataclass(frozen=True)
class State:
    """An adapter's state for its prompts: router [B, 2], None without an adapter; pooled [B, rank], None in a kept block."""

    router: Tensor | None
    pooled: Tensor | None


@dataclass(frozen=True)
class Tokens:
    """A block's normalised input n [B*L, dim], the adapter's output y [B*L, dim], and the adapter's state.

    router, pooled  see State
    bias            in a skipped block, down's bias shifted by the pooled feature, [B, width]
    modality        of each token's prompt [B*L] int64, where weights depend on it
    """

    n: Tensor
    y: Tensor
    router: Tensor | None = None
    pooled: Tensor | None = None
    bias: Tensor | None = None
    modality: Tensor | None = None

    @property
    def state(self) -> "State":
        return State(self.router, self.pooled)


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class OffsetNorm(nn.Module):
    """RMSNorm with gain = 1 + weight, computed in float32: rounded to bfloat16, gains near 1 would lose most of the weight."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.gain = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(ops.wide(x), self.gain, self.eps).to(x.dtype)


def norm(config: ModelConfig, width: int) -> nn.Module:
    """The kind of norm that the model has, over the last axis."""
    return (OffsetNorm if config.norm_offset else RMSNorm)(width, config.norm_eps)


def sandwich(config: ModelConfig) -> nn.Module:
    """The norm behind an attention or a feed-forward network, nothing in most models."""
    return norm(config, config.dim) if config.sandwich_norms else nn.Identity()


ACTIVATIONS = {  # ModelConfig.activation
    "silu": ops.swish,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class Attention(nn.Module):
    """The four projections of multi-head attention, and norms of queries and keys; the graphs compute the attention itself."""

    projection = staticmethod(linear)

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.q = self.projection(config.dim, config.q_dim, config.qkv_bias)
        self.k = self.projection(config.dim, config.kv_dim, config.qkv_bias)
        self.v = self.projection(config.dim, config.kv_dim, config.qkv_bias)
        self.q_norm = norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.o = linear(config.q_dim, config.dim, config.o_bias)

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y [n, dim] -> q [n, q_dim], k, v [n, kv_dim]"""
        return self.q(y), self.k(y), self.v(y)


class PerModality(nn.Module):
    """A linear layer with two sets of weights. Graphs take one set as inputs; the reference reads both."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        """bias: of what is folded; a fold has one in any case"""
        super().__init__()
        self.text, self.image = linear(inputs, outputs), linear(inputs, outputs)

    def forward(self, x: Tensor, modality: Tensor) -> Tensor:
        """x [n, in]; modality [n] int64, 1 for tokens of a prompt with an image -> [n, out]"""
        return torch.where(modality[:, None] == 1, self.image(x), self.text(x))


class FoldedAttention(Attention):
    """Where an adapter is folded into q, k and v, which gives them biases."""

    projection = PerModality


class FeedForward(nn.Module):
    """down(activation(gate z) * up z)"""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = linear(config.dim, config.ffn_dim, config.ffn_bias)
        self.up = linear(config.dim, config.ffn_dim, config.ffn_bias)
        self.down = linear(config.ffn_dim, config.dim, config.ffn_bias)
        self.activation = ACTIVATIONS[config.activation]

    def project(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [n, dim] -> gate, up [n, ffn_dim]"""
        return self.gate(z), self.up(z)

    def finish(self, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up [n, ffn_dim] -> [n, dim]"""
        return self.down(self.activation(gate) * up)


class Block(nn.Module):
    """What all blocks have: the norm in front, and linear layers, `folds`, that read its adapter's output or n itself."""

    folds: tuple[str, ...]

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm = norm(config, config.dim)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        """n [B*L, dim]"""
        return Tokens(n, n)

    def project(self, y: Tensor) -> tuple[Tensor, ...]:
        """y [n, dim], the adapter's output -> the outputs of `folds`"""
        raise NotImplementedError

    def read(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """The outputs of `folds` for a prompt's tokens."""
        return self.project(tokens.y)

    def read_folded(self, apply: Callable[[str, Tensor], Tensor], n: Tensor) -> tuple[Tensor, ...]:
        """The outputs of `folds` where apply(name, x) is one of them with its adapter folded in: n [n, dim]"""
        return tuple(apply(name, n) for name in self.folds)

    def fold(self, router: Tensor, down_bias: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The weight and bias of each of `folds` with the adapter folded in: router [2] float32; down_bias [width], shifted by the pooled
        feature in place of an attention"""
        factors = fold_factors(self.adapter, router, down_bias)
        layers = {name: self.get_submodule(name) for name in self.folds}
        return {name: fold_linear(layer.weight, *factors, layer.bias) for name, layer in layers.items()}


class KeptBlock(Block):
    """n = norm(x); y = n; x1 = x + o(attention(q, k, v of y)); out = x1 + FFN(ffn_norm(x1))"""

    folds = ("attention.q", "attention.k", "attention.v")  # the linear layers that read the adapter's output

    attention_of = Attention

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.attention = self.attention_of(config)
        self.post_attention_norm = sandwich(config)
        self.ffn_norm = norm(config, config.dim)
        self.ffn = FeedForward(config)
        self.post_ffn_norm = sandwich(config)

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y [n, dim], the adapter's output -> q [n, q_dim], k, v [n, kv_dim]"""
        return self.attention.project(y)

    def finish(self, x: Tensor, heads: Tensor) -> Tensor:
        """x [n, dim]; heads [n, q_dim], the attention's output before o -> [n, dim]"""
        x1 = x + self.post_attention_norm(self.attention.o(heads))
        return x1 + self.post_ffn_norm(self.ffn.finish(*self.ffn.project(self.ffn_norm(x1))))


class AdaptedKeptBlock(KeptBlock):
    """y = adapter(n)"""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.router = ROUTERS[config.router](config.dim)
        self.adapter = Adapter(config.dim, config.kept_adapter)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        router = self.router(n, prompt)  # [B, 2]
        v = per_token(self.adapter.spread(router), prompt.length)  # [B*L, width]
        return Tokens(n, self.adapter(n, v), router)


class FoldedKeptBlock(KeptBlock):
    """The adapter is in q, k and v."""

    attention_of = FoldedAttention

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        return Tokens(n, n, modality=prompt.modality_of_tokens())

    def read(self, tokens: Tokens) -> tuple[Tensor, ...]:
        return tuple(self.get_submodule(name)(tokens.n, tokens.modality) for name in self.folds)


class SkippedBlock(Block):
    """n = norm(x); y = n; out = x + FFN(y): one norm, no attention, no cache.

    The weight of the ffn norm, which multiplies y, is folded into gate and up.
    """

    folds = ("ffn.gate", "ffn.up")

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.ffn = FeedForward(config)
        self.post_ffn_norm = sandwich(config)

    def project(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y [n, dim], the adapter's output -> gate, up [n, ffn_dim]"""
        return self.ffn.project(y)

    def finish(self, x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        """x [n, dim]; gate, up [n, ffn_dim] -> [n, dim]"""
        return x + self.post_ffn_norm(self.ffn.finish(gate, up))


class AdaptedSkippedBlock(SkippedBlock):
    """y = adapter(n, p)"""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.router = ROUTERS[config.router](config.dim)
        self.pool = Pool(config.dim, config.skipped_adapter.rank)
        self.adapter = Adapter(config.dim, config.skipped_adapter)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        router = self.router(n, prompt)  # [B, 2]
        v = per_token(self.adapter.spread(router), prompt.length)  # [B*L, width]
        pooled = self.pool(prompt.mean(n, prompt.pooled_mean))  # [B, rank]
        bias = self.adapter.shifted_bias(pooled)  # [B, width]
        return Tokens(n, self.adapter(n, v, per_token(bias, prompt.length)), router, pooled, bias)


class SkippedLayer(Block):
    """n = norm(x); out = x + adapter(n): no attention, no feed-forward network, no cache (DAS)."""

    folds = ("change",)

    def project(self, y: Tensor) -> tuple[Tensor, ...]:
        """y [n, dim], what the adapter adds -> the same"""
        return (y,)

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y [n, dim] -> [n, dim]"""
        return x + y


class AdaptedSkippedLayer(SkippedLayer):
    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.router = ROUTERS[config.router](config.dim)
        self.adapter = Change(config.dim, config.skipped_adapter)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        router = self.router(n, prompt)  # [B, 2]
        return Tokens(n, self.adapter(n, per_token(self.adapter.spread(router), prompt.length)), router)

    def fold(self, router: Tensor, down_bias: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        outer, _, _ = fold_factors(self.adapter, router, down_bias)  # [dim, rank + 1]
        return {"change": (outer[:, :-1], outer[:, -1])}


class FoldedSkippedLayer(SkippedLayer):
    """out = x + change(inner(n))"""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        rank = config.skipped_adapter.rank
        self.inner = linear(config.dim, rank)
        self.change = PerModality(rank, config.dim)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        return Tokens(n, n, modality=prompt.modality_of_tokens())

    def read(self, tokens: Tokens) -> tuple[Tensor, ...]:
        return (self.change(self.inner(tokens.n), tokens.modality),)

    def read_folded(self, apply: Callable[[str, Tensor], Tensor], n: Tensor) -> tuple[Tensor, ...]:
        return (apply("change", self.inner(n)),)


KEPT = {  # by router
    None: KeptBlock,
    "prompt": AdaptedKeptBlock,
    "modality": AdaptedKeptBlock,
    "constant": AdaptedKeptBlock,
    "folded": FoldedKeptBlock,
}
SKIPPED = {  # by site, and by router
    "attention": {None: SkippedBlock, "prompt": AdaptedSkippedBlock},
    "layer": {"modality": AdaptedSkippedLayer, "constant": AdaptedSkippedLayer, "folded": FoldedSkippedLayer},
}


def block_types(config: ModelConfig) -> tuple[type[Block], type[Block] | None]:
    """The blocks of kept and of skipped sites; None where nothing can be skipped."""
    router = config.router if config.skipped_adapter else None
    return KEPT[config.router], SKIPPED[config.site].get(router)
