"""The network with its adapters as they were published: 1x1 convolutions, the outer ones in two groups.

All but the adapters is the network's own, weights and all. The adapters' numbers are recovered from the stacked form of
networks/fold.py, which holds s, 1/t and ffn_norm.weight already. The published code multiplies by s and by that weight for every token,
so here the same is done with ones.

Formulas (paper, Eq. 4-8; published code), letters as in networks/fold.py:

    kept     h = A n + a                       skipped  h = 0.5 (p + C n + c),  p = mean of A n + a over tokens
    both     y = s (w0 (B h + b) + w1 (D h + d)) + n
"""

import torch
from torch import Tensor, nn

from ..checkpoint.eas_adapter import GROUPS, grouped
from ..networks.adapter import Adapter, Pool, mean_over
from ..networks.decoder.blocks import AdaptedKeptBlock, AdaptedSkippedBlock, KeptBlock, SkippedBlock, Tokens
from ..networks.decoder.routers import Prompt
from ..networks.skeleton import skeleton
from ..networks.vision import AdapterVisionBlock


class PublishedAdapter(nn.Module):
    """Common to both kinds: h -> y. Tokens are [B, L, dim] outside and [B, dim, L] for the convolutions."""

    def __init__(self, adapter: Adapter):
        super().__init__()
        self.rank = adapter.width // 2 - 1
        parts = adapter.up.split([self.rank, 1, self.rank, 1], 1)  # s B, s b, s D, s d
        self.conv_B, self.conv_D = (
            _convolution(grouped(matrix), bias.flatten().contiguous(), GROUPS)
            for matrix, bias in (parts[:2], parts[2:])
        )
        self.scale = 1.0  # s is in B, b, D, d

    def mix(self, n: Tensor, h: Tensor, router: Tensor) -> Tensor:
        """n [B, dim, L], h [B, rank, L], router [B, 2] of their dtype -> y [B, L, dim]"""
        w0, w1 = router[:, 0, None, None], router[:, 1, None, None]  # [B, 1, 1]
        delta = w0 * self.conv_B(h) + w1 * self.conv_D(h)  # [B, dim, L]
        return (delta * self.scale + n).transpose(1, 2)


class PublishedKeptAdapter(PublishedAdapter):
    """Before an attention."""

    def __init__(self, adapter: Adapter):
        super().__init__(adapter)
        self.conv_A = _inner(adapter.down.weight, adapter.down.bias, self.rank)

    def forward(self, n: Tensor, router: Tensor) -> Tensor:
        """n [B, L, dim], router [B, 2] of its dtype -> y [B, L, dim]"""
        n = n.transpose(1, 2)
        return self.mix(n, self.conv_A(n), router)


class PublishedSkippedAdapter(PublishedAdapter):
    """In place of an attention."""

    def __init__(self, adapter: Adapter, pool: Pool):
        super().__init__(adapter)
        self.conv_A = _inner(pool.weight.to(adapter.up.dtype), pool.bias.to(adapter.up.dtype), self.rank)
        self.conv_C = _inner(2 * adapter.down.weight, 2 * adapter.down.bias, self.rank)  # down has 0.5 C, 0.5 c

    def features(self, n: Tensor) -> Tensor:
        """A n + a, whose mean is the pooled feature: [B, L, dim] -> [B, L, rank]"""
        return self.conv_A(n.transpose(1, 2)).transpose(1, 2)

    def forward(self, n: Tensor, router: Tensor, pooled: Tensor) -> Tensor:
        """n [B, L, dim]; router [B, 2], pooled [B, rank] of its dtype -> y [B, L, dim]"""
        n = n.transpose(1, 2)
        return self.mix(n, 0.5 * (pooled[:, :, None] + self.conv_C(n)), router)


def _take_parts(module: nn.Module, block: nn.Module) -> None:
    """Initialise a module with the parts of a block but for its adapter, not copied."""
    nn.Module.__init__(module)
    for name, part in block.named_children():
        if name not in ("adapter", "pool"):
            module.add_module(name, part)


class PublishedKeptBlock(KeptBlock):
    """A kept block with its adapter as published."""

    def __init__(self, block: AdaptedKeptBlock):
        _take_parts(self, block)
        self.adapter = PublishedKeptAdapter(block.adapter)

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        rows = n.unflatten(0, (prompt.batch, prompt.length))  # [B, L, dim]
        router = self.router(n, prompt)  # [B, 2]
        return Tokens(n, self.adapter(rows, router.to(n.dtype)).flatten(0, 1), router)


class PublishedSkippedBlock(SkippedBlock):
    """A skipped block with its adapter as published."""

    def __init__(self, block: AdaptedSkippedBlock):
        _take_parts(self, block)
        self.adapter, dim = PublishedSkippedAdapter(block.adapter, block.pool), len(block.adapter.up)
        self.gain = nn.Parameter(
            torch.ones(dim, dtype=block.adapter.up.dtype), requires_grad=False
        )  # it is in gate, up

    def adapt(self, n: Tensor, prompt: Prompt) -> Tokens:
        rows = n.unflatten(0, (prompt.batch, prompt.length))  # [B, L, dim]
        router = self.router(n, prompt)  # [B, 2]
        pooled = mean_over(self.adapter.features(rows), prompt.pooled_mean)  # [B, rank]
        y = self.adapter(rows, router.to(n.dtype), pooled.to(n.dtype))  # [B, L, dim]
        return Tokens(n, y.flatten(0, 1), router, pooled)

    def project(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return super().project(y * self.gain)


class PublishedVisionBlock(AdapterVisionBlock):
    """A vision block with its adapter as published."""

    def __init__(self, block: AdapterVisionBlock):
        _take_parts(self, block)
        self.heads, self.activation = block.heads, block.activation
        self.adapter = PublishedKeptAdapter(block.adapter)

    def adapt(self, n: Tensor, tokens: int) -> Tensor:
        router = self.route(n, tokens).unflatten(0, (-1, tokens))[:, 0].to(n.dtype)  # [N, 2]
        return self.adapter(n.unflatten(0, (-1, tokens)), router).flatten(0, 1)


BLOCKS = {
    AdaptedKeptBlock: PublishedKeptBlock,
    AdaptedSkippedBlock: PublishedSkippedBlock,
    AdapterVisionBlock: PublishedVisionBlock,
}


def published_network(network: nn.Module) -> nn.Module:
    """Replace the network's blocks with adapters by published ones, in place. Only the adapters' numbers are copied."""
    network.decoder.layers = _as_published(network.decoder.layers)
    if network.decoder.config.vision:
        network.vision.blocks = _as_published(network.vision.blocks)
    return network


def _as_published(blocks: nn.ModuleList) -> nn.ModuleList:
    return nn.ModuleList(BLOCKS[type(block)](block) if type(block) in BLOCKS else block for block in blocks)


def _inner(weight: Tensor, bias: Tensor, rank: int) -> nn.Conv1d:
    """A or C: the first `rank` rows of a matrix [.., dim] and a bias [..], which may be stacked"""
    return _convolution(weight[:rank, :, None], bias[:rank])


def _convolution(weight: Tensor, bias: Tensor, groups: int = 1) -> nn.Conv1d:
    """weight [out, in / groups, 1], bias [out]"""
    with skeleton():
        made = nn.Conv1d(weight.shape[1] * groups, len(weight), 1, groups=groups)
    made.weight, made.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in (weight, bias))
    return made
