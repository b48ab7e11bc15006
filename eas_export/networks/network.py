"""The whole network of a config and plan, as a skeleton or with weights."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..core.configs import AnyConfig
from ..core.errors import InternalError
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import Precision
from . import network_part
from .skeleton import skeleton

Readers = Mapping[str, Callable[[], Tensor]]  # a parameter's name in the store -> what reads it


def build_network(config: AnyConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> nn.Module:
    """The network in the precision's dtype, without weights, on the meta device."""
    make = network_part(config, "modules")
    with skeleton(precision):
        network = make(config, plan, limits)
    return network.eval().requires_grad_(False)


def store_name(parameter: str) -> str:
    """A network parameter's name in the store: "decoder.layers.0.norm.weight" -> "layers.0.norm.weight" """
    return parameter.removeprefix("decoder.")


def parameter_shapes(network: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Store name -> shape and dtype of every parameter."""
    return {store_name(name): (tuple(p.shape), p.dtype) for name, p in network.named_parameters()}


def load_parameters(network: nn.Module, read: Readers) -> nn.Module:
    """Assign weights to the network, without a copy. Raises InternalError unless names, shapes and dtypes are exactly the network's."""
    expected = parameter_shapes(network)
    if set(expected) != set(read):
        raise InternalError(f"parameters and network differ: {sorted(set(expected) ^ set(read))[:5]}")
    state = {}
    for name, _ in network.named_parameters():
        tensor, (shape, dtype) = read[store_name(name)](), expected[store_name(name)]
        if (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
            raise InternalError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {shape}")
        state[name] = tensor
    network.load_state_dict(state, assign=True)
    return network
