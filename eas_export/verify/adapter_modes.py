"""How adapters are applied to tokens: the exact modes, and those of the published code.

Formulas: networks/fold.py; letters as there. A skipped layer's W is W G here, with G = diag(ffn_norm.weight) in it.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..networks.adapter import fold_factors
from ..networks.decoder.blocks import Block, SkippedBlock, Tokens
from ..networks.fold import fold_linear

# (layer, block, tokens [B*L, .], fed [B, L] bool: after its prompt) -> the outputs of the linear layers after the adapter, [B*L, out]
AdapterMode = Callable[[int, Block, Tokens, Tensor], tuple[Tensor, ...]]


def unfolded(layer: int, block: Block, tokens: Tokens, fed: Tensor) -> tuple[Tensor, ...]:
    """Router weights and pooled feature frozen at the prompt's, the adapter in place: the paper, and the reference."""
    return block.read(tokens)


def folded(layer: int, block: Block, tokens: Tokens, fed: Tensor) -> tuple[Tensor, ...]:
    """The same function, folded into the weights for what is fed after the prompt: W' n + b'."""
    return _through_folded(block, tokens, fed, fold_linear)


def published_fold(gains: Mapping[int, Tensor]) -> AdapterMode:
    """The fold as it was published, applied to the prompt too: the bias is computed from the weight that was just overwritten,
    b' = W' G U m1 for W G U m1 (G = 1 in a kept layer). gains: skipped layer -> ffn_norm.weight [dim] float32"""

    def mode(layer: int, block: Block, tokens: Tokens, fed: Tensor) -> tuple[Tensor, ...]:
        def fold(
            weight: Tensor, outer: Tensor, inner: Tensor, inner_bias: Tensor, bias: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            changed, _ = fold_linear(weight, outer, inner, inner_bias)
            beta = outer @ inner_bias  # [dim]
            own = changed @ (beta * gains[layer] if layer in gains else beta)
            return changed, own if bias is None else bias + own

        return _through_folded(block, tokens, torch.ones_like(fed), fold)

    return mode


def published_dynamic(gains: Mapping[int, Tensor]) -> AdapterMode:
    """Decoding as LaVIN was published for batches: a skipped layer's pooled feature is that of the one new token."""

    def mode(layer: int, block: Block, tokens: Tokens, fed: Tensor) -> tuple[Tensor, ...]:
        parts = block.project(tokens.y)
        if isinstance(block, SkippedBlock):
            for row, at in _rows(fed):
                n = tokens.n[at]  # [k, dim]
                bias = block.adapter.shifted_bias(block.pool(n.float()))  # [k, width]
                v = block.adapter.spread(tokens.router[row]).expand_as(bias)
                for part, own in zip(parts, block.project(block.adapter(n, v, bias))):
                    part[at] = own
        return parts

    return mode


# The published code's modes, by name; a family lists its own
PUBLISHED: Mapping[str, Callable[[Mapping[int, Tensor]], AdapterMode]] = {
    "published fold": published_fold,
    "published dynamic decode": published_dynamic,
}


def _through_folded(block: Block, tokens: Tokens, where: Tensor, fold: Callable) -> tuple[Tensor, ...]:
    """With one folded weight in memory at a time."""
    parts = block.project(tokens.y)
    for row, at in _rows(where):
        bias = block.adapter.down.bias if tokens.bias is None else tokens.bias[row]
        factors = fold_factors(block.adapter, tokens.router[row], bias)
        for part, name in zip(parts, block.folds):
            layer = block.get_submodule(name)
            part[at] = F.linear(tokens.n[at], *fold(layer.weight, *factors, layer.bias))
    return parts


def _rows(where: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each row of `where` [B, L] that is true somewhere, and where, as indices into all tokens [B*L]."""
    for row, mine in enumerate(where):
        if mine.any():
            yield row, mine.nonzero().flatten() + row * where.shape[1]
