"""A pruned checkpoint's tensors as the parameters of its network, of any kind, each packed as the weight format stores it."""

import torch

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.lazy_tensor import LazyTensor
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import WEIGHT_FORMATS, Precision, parameter_dtype
from ..core.registry import load
from . import network_part


def network_parameters(
    checkpoint: Checkpoint, plan: SkipPlan, precision: Precision, limits: Limits
) -> dict[str, LazyTensor]:
    """Every tensor of the network's store, by name. Nothing is read.

    checkpoint  after `prune` and, for a bundle's store, `exported`, with the same plan
    """
    make, pack = network_part(checkpoint.config, "parameters"), load(WEIGHT_FORMATS[precision.weights].pack)
    parameters = make(checkpoint, plan, limits).items()
    return {stored: part for name, tensor in parameters for stored, part in pack(name, tensor, precision).items()}


def exported(checkpoint: Checkpoint, plan: SkipPlan, fold: str) -> Checkpoint:
    """The checkpoint of the network that a fold mode's graphs compute. Nothing is read.

    checkpoint  after `prune` with the same plan
    """
    settle = network_part(checkpoint.config, "settled")
    return settle(checkpoint, plan, network_part(checkpoint.config, "fold_modes")[fold]) if settle else checkpoint


def plain(name: str, tensor: LazyTensor, precision: Precision) -> dict[str, LazyTensor]:
    """The tensor itself, in its parameter's dtype."""
    target = getattr(torch, parameter_dtype(name, precision))
    return {name: tensor if tensor.dtype == target else tensor.map(lambda t: t.to(target), dtype=target)}
