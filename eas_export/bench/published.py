"""PyTorch eager as published: the adapters in the decode loop, as convolutions, computed anew for every token.

Only the adapters differ from the "lowrank" graphs: the walk over the blocks, attention, caches and norms are the same code, so the
extra time of a step is the adapters'. Router weights are the prompt's. A skipped layer's pooled feature is

    frozen   the prompt's (LLaVA-EAS, and the paper)
    dynamic  that of the one new token (LaVIN-EAS as published for batches: verify/adapter_modes.py's "published dynamic decode")

Inputs and outputs are those of the "lowrank" graphs, so a Conversation runs on either.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..backends.opening import require_own_graphs_and_weights
from ..backends.pytorch import load_network, readers_of, sessions_of
from ..backends.runtime import CPU, Runtime
from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..core.plan import SkipPlan
from ..core.precision import PRECISIONS
from ..families import get_family
from ..networks.contract import Graph
from ..networks.decoder.blocks import KeptBlock, SkippedBlock
from ..networks.decoder.decode import decode_step, unfolded_decode_reads, unfolded_decode_spec
from ..networks.decoder.modules import Decoder
from ..networks.decoder.prefill import PREFILL
from ..networks.decoder.vision import VISION
from ..networks.graphs import fold_modes
from .published_network import PublishedKeptBlock, PublishedSkippedBlock, published_network

NAME = "pytorch, as published"

# (layer, block, n [B, 1, dim]) -> the pooled feature that the layer's adapter is given, [B, rank] of n's dtype
Pooled = Callable[[int, PublishedSkippedBlock, Tensor], Tensor]


class FrozenDecodeGraph(nn.Module):
    """A step of a network from `published_network` with the prompt's pooled features."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        decoder: Decoder = self.network.decoder
        skipped = [layer for layer, block in enumerate(decoder.layers) if isinstance(block, SkippedBlock)]
        own = inputs["pooled"].to(decoder.embed.weight.dtype).unbind(1) if skipped else ()  # of [B, rank]
        pooled = dict(zip(skipped, own))
        return _step(decoder, inputs, lambda layer, block, n: pooled[layer])


class DynamicDecodeGraph(nn.Module):
    """A step of a network from `published_network` with the new token's own pooled features; the input `pooled` is not read."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return _step(self.network.decoder, inputs, lambda layer, block, n: block.adapter.features(n).mean(1))


def _step(decoder: Decoder, inputs: dict[str, Tensor], pooled: Pooled) -> dict[str, Tensor]:
    routers = inputs["router"].to(decoder.embed.weight.dtype)  # [B, layers, 2]

    def project(layer: int, block: PublishedKeptBlock | PublishedSkippedBlock, n: Tensor) -> tuple[Tensor, ...]:
        token, router = n[:, None], routers[:, layer]  # [B, 1, dim], [B, 2]
        if isinstance(block, KeptBlock):
            y = block.adapter(token, router)  # [B, 1, dim]
        else:
            y = block.adapter(token, router, pooled(layer, block, token))
        return block.project(y[:, 0])

    return decode_step(decoder, inputs, project)


def dynamic_decode_reads(plan: SkipPlan, name: str) -> bool:
    """Whether the dynamic step reads this parameter of the store: those that the frozen one reads, and the pools."""
    return unfolded_decode_reads(plan, name) or ".pool." in name


FROZEN = Graph(FrozenDecodeGraph, unfolded_decode_spec, unfolded_decode_reads)
DYNAMIC = Graph(DynamicDecodeGraph, unfolded_decode_spec, dynamic_decode_reads)


def published_graphs(dynamic: bool) -> Mapping[str, Graph]:
    """vision, prefill and decode. Their modules take a network from `published_network`; the first two are the bundles' own on it."""
    return {"vision": VISION, "prefill": PREFILL, "decode": DYNAMIC if dynamic else FROZEN}


def published_is_dynamic(family: str) -> bool:
    """Whether the family's published code pools every new token by itself. Raises UserError for an unknown family."""
    return "published dynamic decode" in get_family(family).published_deviations


def open_published(bundle: Bundle, device: torch.device = CPU) -> Runtime:
    """The bundle's own weights in PyTorch as its family was published, in the bundle's precision; its fold mode does not matter.

    Raises UserError for a bundle of another kind, without adapters, of skipped layers, or whose weights are not those of its config.
    """
    m = bundle.manifest
    if "lowrank" not in fold_modes(m.config):
        what = f"a {m.config.family} bundle of fold mode {m.fold} has no adapters to decode with"
        raise UserError(what, where=bundle.path, fix="give a bundle of a decoder that was built with its adapters")
    if m.config.site != "attention":
        what = "skipped layers are not run as published here, skipped attentions only"
        raise UserError(what, where=bundle.path, fix="leave this baseline out of --against")
    require_own_graphs_and_weights(bundle)
    given = (m.config, m.plan, PRECISIONS[m.precision], m.limits)
    network = published_network(load_network(*given, readers_of(bundle), device))
    graphs = published_graphs(published_is_dynamic(m.config.family))
    graphs = {name: graph for name, graph in graphs.items() if name not in m.config.absent_graphs}
    sessions = sessions_of(graphs, network, *given)
    return Runtime(NAME, m.config, m.plan, m.limits, sessions, device)
