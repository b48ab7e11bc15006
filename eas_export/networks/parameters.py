"""A pruned checkpoint's tensors become the network's parameters, for every kind of network, each packed as the weight format
stores it."""

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
    """Every parameter of the network as it is stored. Nothing is read.

    checkpoint  after `prune` with the same plan
    """
    make, pack = network_part(checkpoint.config, "parameters"), load(WEIGHT_FORMATS[precision.weights].pack)
    parameters = make(checkpoint, plan, limits).items()
    return {stored: each for name, tensor in parameters for stored, each in pack(name, tensor, precision).items()}


def plain(name: str, tensor: LazyTensor, precision: Precision) -> dict[str, LazyTensor]:
    """The tensor itself, in the dtype that is computed in."""
    target = getattr(torch, parameter_dtype(name, precision))
    return {name: tensor if tensor.dtype == target else tensor.map(lambda t: t.to(target), dtype=target)}
