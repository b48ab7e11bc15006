"""The decoder. Skipped blocks are built without attention; no flag switches it off.

    kept     x - norm - n - adapter - y - q,k,v - RoPE - attention - o - (+x) - x1 - ffn_norm - FFN - (+x1) - out
    skipped  x - norm - n - adapter - y ------------------------------------------------------- FFN - (+x)  - out

The blocks work on tokens [n, dim]. Prefill computes a prompt's state (`adapt`); decoding takes that state, or weights into which it was
folded. Blocks without adapters are for the latency baseline.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.configs.decoder import ModelConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan
from .. import ops
from ..adapter import Adapter, Pool, Router, mean_over, per_token
from ..recordable import within
from ..skeleton import linear
from ..vision import TOWERS


@dataclass(frozen=True)
class Prompt:
    """A batch of prompts of L positions each, as adapters need it.

    router_mean  [B, L] weights of the router's mean: without the modality token
    pooled_mean  [B, L] weights of the pooled feature's mean: with it
    """

    batch: int
    length: int
    router_mean: Tensor
    pooled_mean: Tensor


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
    """

    n: Tensor
    y: Tensor
    router: Tensor | None = None
    pooled: Tensor | None = None
    bias: Tensor | None = None

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


class Attention(nn.Module):
    """The four projections of multi-head attention; the graphs compute the attention itself."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.q = linear(config.dim, config.dim, bias=False)
        self.k = linear(config.dim, config.kv_dim, bias=False)
        self.v = linear(config.dim, config.kv_dim, bias=False)
        self.o = linear(config.dim, config.dim, bias=False)

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y [n, dim] -> q [n, dim], k, v [n, kv_dim]"""
        return self.q(y), self.k(y), self.v(y)


class FeedForward(nn.Module):
    """down(silu(gate z) * up z)"""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = linear(config.dim, config.ffn_dim, bias=False)
        self.up = linear(config.dim, config.ffn_dim, bias=False)
        self.down = linear(config.ffn_dim, config.dim, bias=False)

    def project(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [n, dim] -> gate, up [n, ffn_dim]"""
        return self.gate(z), self.up(z)

    def finish(self, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up [n, ffn_dim] -> [n, dim]"""
        return self.down(ops.swish(gate) * up)


class KeptBlock(nn.Module):
    """n = norm(x); y = n; x1 = x + o(attention(q, k, v of y)); out = x1 + FFN(ffn_norm(x1))"""

    folds = ("attention.q", "attention.k", "attention.v")  # the linear layers that read the adapter's output

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn = FeedForward(config)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        """n [B*L, dim]"""
        return Tokens(n, n)

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y [n, dim], the adapter's output -> q [n, dim], k, v [n, kv_dim]"""
        return self.attention.project(y)

    def finish(self, x: Tensor, heads: Tensor) -> Tensor:
        """x [n, dim]; heads [n, dim], the attention's output before o -> [n, dim]"""
        x1 = x + self.attention.o(heads)
        return x1 + self.ffn.finish(*self.ffn.project(self.ffn_norm(x1)))


class AdaptedKeptBlock(KeptBlock):
    """y = adapter(n)"""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.router = Router(config.dim)
        self.adapter = Adapter(config.dim, config.kept_adapter)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        rows = n.unflatten(0, (prompt.batch, prompt.length))  # [B, L, dim]
        router = self.router(mean_over(rows, prompt.router_mean))  # [B, 2]
        v = per_token(self.adapter.spread(router), prompt.length)  # [B*L, width]
        return Tokens(n, self.adapter(n, v), router)


class SkippedBlock(nn.Module):
    """n = norm(x); y = n; out = x + FFN(y): one norm, no attention, no cache.

    The weight of the ffn norm, which multiplies y, is folded into gate and up.
    """

    folds = ("ffn.gate", "ffn.up")

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn = FeedForward(config)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        """n [B*L, dim]"""
        return Tokens(n, n)

    def project(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y [n, dim], the adapter's output -> gate, up [n, ffn_dim]"""
        return self.ffn.project(y)

    def finish(self, x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        """x [n, dim]; gate, up [n, ffn_dim] -> [n, dim]"""
        return x + self.ffn.finish(gate, up)


class AdaptedSkippedBlock(SkippedBlock):
    """y = adapter(n, p)"""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.router = Router(config.dim)
        self.pool = Pool(config.dim, config.skipped_adapter.rank)
        self.adapter = Adapter(config.dim, config.skipped_adapter)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        rows = n.unflatten(0, (prompt.batch, prompt.length))  # [B, L, dim]
        router = self.router(mean_over(rows, prompt.router_mean))  # [B, 2]
        v = per_token(self.adapter.spread(router), prompt.length)  # [B*L, width]
        pooled = self.pool(mean_over(rows, prompt.pooled_mean))  # [B, rank]
        bias = self.adapter.shifted_bias(pooled)  # [B, width]
        return Tokens(n, self.adapter(n, v, per_token(bias, prompt.length)), router, pooled, bias)


class RotaryTables(nn.Module):
    def __init__(self, positions: int, head_dim: int):
        super().__init__()
        self.cos = nn.Parameter(torch.empty(positions, head_dim // 2))
        self.sin = nn.Parameter(torch.empty(positions, head_dim // 2))


class Decoder(nn.Module):
    """Embedding, the plan's blocks, final norm and head; a tied one is the embedding's table. `positions` is the length of the RoPE tables."""

    def __init__(self, config: ModelConfig, plan: SkipPlan, positions: int):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        if config.modality_token:
            self.modality = nn.Embedding(2, config.dim)  # without image, with image
        if plan.kept:
            self.rope = RotaryTables(positions, config.head_dim)
        plain, adapted = (KeptBlock, SkippedBlock), (AdaptedKeptBlock, AdaptedSkippedBlock)
        kept, skipped = plain if config.kept_adapter is None else adapted
        blocks = (skipped(config) if i in plan.skipped else kept(config) for i in range(plan.sites))
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = None if config.tied_head else linear(config.dim, config.vocab_size, bias=False)

    def rotate(self, x: Tensor, position_ids: Tensor) -> Tensor:
        """RoPE: x [B, H, L, head_dim], position_ids [B, L]"""
        return ops.rotate(x, self.rope.cos, self.rope.sin, position_ids, self.config.rope_interleaved)

    def logits(self, x: Tensor) -> Tensor:
        """x [B, dim] -> [B, vocab] float32"""
        n = self.norm(x)
        if self.head is not None:
            return self.head(n).float()
        with within("head"):
            product = F.linear(n, self.embed.weight)
        return product.float()


def fold_names(layer: int, block: KeptBlock | SkippedBlock) -> list[str]:
    """Names of a block's linear layers that take folded weights: ["layers.3.ffn.gate", "layers.3.ffn.up"]"""
    return [f"layers.{layer}.{part}" for part in block.folds]


def apply_folded(folded: dict[str, Tensor], name: str, n: Tensor) -> Tensor:
    """The linear layer `name` with its folded weight and bias: n [n, dim] -> [n, out]"""
    with within(name):
        return F.linear(n, folded[f"{name}.weight"], folded[f"{name}.bias"])


class DecoderNetwork(nn.Module):
    """decoder and, if the model has one, vision. Parameters have the names of the store, after a leading "decoder."."""

    def __init__(self, config: ModelConfig, plan: SkipPlan, limits: Limits):
        super().__init__()
        self.decoder = Decoder(config, plan, limits.max_tokens + config.prefix)
        if config.vision:
            self.vision = TOWERS[config.vision.features](config.vision, config.dim)
