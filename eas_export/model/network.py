"""The whole network of a config and plan, as a skeleton or with weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..any_config import AnyConfig
from ..config import Limits
from ..errors import InternalError
from ..plan import SkipPlan
from ..precision import Precision
from ..registry import lookup

# Kind of network (a config's) -> (config, plan, limits) -> its module
NETWORKS = {
    "decoder": ".model.decoder_network:DecoderNetwork",
    "cross-encoder": ".model.cross_encoder:folded_cross_encoder",
}


def build_network(config: AnyConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> nn.Module:
    """The network in the precision's dtype, without weights. Call it under a meta device or a fake mode and nothing is allocated."""
    make = lookup(NETWORKS, config.kind, "kind of network", "config")
    with _default_dtype(getattr(torch, precision.dtype)):
        network = make(config, plan, limits)
    return network.eval().requires_grad_(False)


def store_name(parameter: str) -> str:
    """The name in the store of a network parameter: "decoder.layers.0.norm.weight" -> "layers.0.norm.weight" """
    return parameter.removeprefix("decoder.")


def parameter_shapes(network: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Store name -> shape and dtype of every parameter."""
    return {store_name(name): (tuple(p.shape), p.dtype) for name, p in network.named_parameters()}


def load_parameters(network: nn.Module, read: Mapping[str, Callable[[], Tensor]]) -> nn.Module:
    """Give the network its weights, without a copy. Raises InternalError unless names, shapes and dtypes are exactly the network's."""
    wanted = parameter_shapes(network)
    if set(wanted) != set(read):
        raise InternalError(f"parameters and network differ: {sorted(set(wanted) ^ set(read))[:5]}")
    state = {}
    for name, _ in network.named_parameters():
        tensor = read[store_name(name)]()
        if (tuple(tensor.shape), tensor.dtype) != wanted[store_name(name)]:
            raise InternalError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype}, the network has {wanted[store_name(name)]}"
            )
        state[name] = tensor
    network.load_state_dict(state, assign=True)
    return network


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
