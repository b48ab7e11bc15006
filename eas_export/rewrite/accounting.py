"""Count what skipping saves, from tensors' shapes; nothing is read."""

import math
from collections.abc import Mapping

import torch

from ..accounts import Account, Accounts
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.lazy import LazyTensor
from ..config import ModelConfig
from ..plan import SkipPlan
from ..precision import DTYPES
from .prune import prune

# part -> what marks a tensor's name as belonging to it; the first that fits counts
PARTS = {"vision": "vision.", "attention": ".attention.", "feed-forward": ".ffn.", "adapters": "_adapter.", "other": ""}


def account(checkpoint: Checkpoint, plan: SkipPlan, dtype: str) -> Accounts:
    """Before and after pruning by this plan, every parameter and the caches counted in `dtype`. Attentions that fine-tuning has removed
    from the checkpoint were there before."""
    config = checkpoint.config
    return Accounts(
        before=_account(_attentions(config) | checkpoint.tensors, config, config.layers, dtype),
        after=_account(prune(checkpoint, plan).tensors, config, len(plan.kept), dtype),
    )


def _attentions(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Every layer's, by their names in a checkpoint."""
    widths = {"q": config.dim, "k": config.kv_dim, "v": config.kv_dim, "o": config.dim}
    return {
        f"layers.{i}.attention.{part}.weight": torch.empty(width, config.dim, device="meta")
        for i in range(config.layers)
        for part, width in widths.items()
    }


def _account(
    tensors: Mapping[str, LazyTensor | torch.Tensor], config: ModelConfig, attentions: int, dtype: str
) -> Account:
    parameters = dict.fromkeys(PARTS, 0)
    for name, tensor in tensors.items():
        parameters[next(part for part, mark in PARTS.items() if mark in name)] += math.prod(tensor.shape)
    total, size = sum(parameters.values()), DTYPES[dtype].size
    kv = 2 * attentions * config.kv_dim * size  # keys and values
    return Account(parameters=parameters, total_parameters=total, total_bytes=total * size, kv_bytes_per_token=kv)
