"""Count what skipping saves, from tensors' shapes; nothing is read."""

from collections.abc import Mapping

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
    """Before and after pruning by this plan, every parameter and the caches counted in `dtype`."""
    config = checkpoint.config
    return Accounts(
        before=_account(checkpoint.tensors, config, config.layers, dtype),
        after=_account(prune(checkpoint, plan).tensors, config, len(plan.kept), dtype),
    )


def _account(tensors: Mapping[str, LazyTensor], config: ModelConfig, attentions: int, dtype: str) -> Account:
    parameters = dict.fromkeys(PARTS, 0)
    for name, tensor in tensors.items():
        parameters[next(part for part, mark in PARTS.items() if mark in name)] += tensor.numel
    total, size = sum(parameters.values()), DTYPES[dtype].size
    kv = 2 * attentions * config.kv_dim * size  # keys and values
    return Account(parameters=parameters, total_parameters=total, total_bytes=total * size, kv_bytes_per_token=kv)
