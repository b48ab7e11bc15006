"""Routers that read the modality token alone, as constants.

The modality token sees itself only, so its state in every layer depends on the weights and on whether there is an image, not on the
prompt: a router that reads it has one pair of weights with an image and one without (LaVIN). They are computed here, once, and the
network that is exported does not compute that token.
"""

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.lazy_tensor import LazyTensor
from ...core.configs.adapter import AdapterConfig
from ...core.configs.decoder import ModelConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan
from .. import ops
from ..contract import FoldMode
from .blocks import KeptBlock
from .parameters import parameters
from .routers import Prompt
from .streaming import StreamedNetwork


def settle_routers(checkpoint: Checkpoint, plan: SkipPlan, mode: FoldMode) -> Checkpoint:
    """The checkpoint of the network that is exported: with constants in place of routers that read the modality token. Nothing is read.

    checkpoint  after `prune` with the same plan
    """
    config = checkpoint.config
    if config.router != "modality":
        return checkpoint

    @cache
    def table() -> Tensor:
        return router_table(checkpoint, plan)

    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        place, _, letter = name.rpartition(".")
        of_decoder = place.startswith("layers.") and place.endswith("_adapter")
        if of_decoder and letter == "E":
            layer = int(place.split(".")[1])
            source = f"the routers of {tensor.source}"
            tensors[f"{place}.w"] = LazyTensor((2, 2), torch.float32, source, lambda i=layer: table()[:, i])
        elif name != "modality.weight" and not (of_decoder and letter == "e"):
            tensors[name] = tensor
    return replace(checkpoint, config=settled_config(config, mode), tensors=tensors)


def settled_config(config: ModelConfig, mode: FoldMode) -> ModelConfig:
    """The config of the network that is exported."""
    if config.router != "modality":
        return config

    def settled(adapter: AdapterConfig | None) -> AdapterConfig | None:
        return adapter and adapter.model_copy(update={"router": mode.settles})

    adapters = {"kept_adapter": settled(config.kept_adapter), "skipped_adapter": settled(config.skipped_adapter)}
    bare = {"modality_token": False, "first_position": config.prompt_position}
    return config.model_copy(update=adapters | bare)


@torch.no_grad()
def router_table(checkpoint: Checkpoint, plan: SkipPlan) -> Tensor:
    """The router weights of both modalities in every layer, in float32, with one layer in memory at a time: [2, layers, 2]

    The modality token attends to itself, so an attention's output is its own v.
    """
    readers = {
        name: lambda tensor=tensor: tensor.read().float()
        for name, tensor in parameters(checkpoint, plan, Limits()).items()
    }
    network = StreamedNetwork(checkpoint.config, plan, Limits(), readers)
    alone = torch.ones(2, 1)
    prompt = Prompt(2, 1, alone, alone, torch.arange(2))
    x, routers = readers["modality.weight"](), []  # [2, dim]
    for block in network.decoder.layers:
        tokens = block.adapt(block.norm(x), prompt)
        routers.append(tokens.router)
        parts = block.project(tokens.y)
        if isinstance(block, KeptBlock):
            heads = parts[-1].unflatten(-1, (-1, 1, checkpoint.config.head_dim))  # [2, kv_heads, 1, head_dim]
            parts = (ops.repeat_heads(heads, checkpoint.config.heads).flatten(1),)
        x = block.finish(x, *parts)
    return torch.stack(routers, 1)
