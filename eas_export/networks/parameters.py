"""A pruned checkpoint's tensors become the network's parameters, for every kind of network."""

import torch

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.lazy_tensor import LazyTensor
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import Precision, parameter_dtype
from . import network_part


def network_parameters(
    checkpoint: Checkpoint, plan: SkipPlan, precision: Precision, limits: Limits
) -> dict[str, LazyTensor]:
    """Every parameter of the network, by its name there, in its dtype. Nothing is read.

    checkpoint  after `prune` with the same plan
    """
    make = network_part(checkpoint.config, "parameters")
    parameters = make(checkpoint, plan, limits)
    return {name: _cast(tensor, parameter_dtype(name, precision)) for name, tensor in parameters.items()}


def _cast(tensor: LazyTensor, dtype: str) -> LazyTensor:
    target = getattr(torch, dtype)
    return tensor if tensor.dtype == target else tensor.map(lambda t: t.to(target), dtype=target)
