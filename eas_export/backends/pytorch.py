"""The PyTorch reference as a backend: runs the modules that graphs are recorded from, eagerly."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..bundle.bundle import Bundle
from ..core.configs import AnyConfig
from ..core.graph_spec import GraphSpec
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import PRECISIONS, Precision
from ..networks.contract import Graph
from ..networks.graphs import graphs_of
from ..networks.network import build_network, load_parameters, parameter_shapes
from .contract import Backend, Health
from .runtime import CPU, Runtime, Tensors


class PyTorchSession:
    def __init__(self, module: nn.Module, spec: GraphSpec):
        self.module, self.spec = module, spec

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        for inputs, outputs in requests:
            self.bind(inputs, outputs)()

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            for name, value in self.module(inputs).items():
                outputs[name].copy_(value)

        return run


def open_network(
    config: AnyConfig,
    plan: SkipPlan,
    precision: Precision,
    limits: Limits,
    fold: str,
    parameters: Mapping[str, Callable[[], Tensor]],
    device: torch.device = CPU,
) -> Runtime:
    """A runtime over the network that `load_network` makes of these arguments."""
    network = load_network(config, plan, precision, limits, parameters, device)
    sessions = sessions_of(graphs_of(config, fold), network, config, plan, precision, limits)
    return Runtime("pytorch", config, plan, limits, sessions, device)


def load_network(
    config: AnyConfig,
    plan: SkipPlan,
    precision: Precision,
    limits: Limits,
    parameters: Mapping[str, Callable[[], Tensor]],
    device: torch.device = CPU,
) -> nn.Module:
    """The network on the device, its parameters read from `parameters` (store name -> reader)."""
    network = build_network(config, plan, precision, limits)
    return load_parameters(network, {name: _moved(parameters[name], device) for name in parameter_shapes(network)})


def sessions_of(
    graphs: Mapping[str, Graph],
    network: nn.Module,
    config: AnyConfig,
    plan: SkipPlan,
    precision: Precision,
    limits: Limits,
) -> dict[str, PyTorchSession]:
    """A session for each graph, all sharing one network."""
    return {
        name: PyTorchSession(graph.module(network), graph.spec(config, plan, precision, limits))
        for name, graph in graphs.items()
    }


def _moved(read: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    return lambda: read().to(device)


def open_bundle(bundle: Bundle, device: torch.device = CPU) -> Runtime:
    """Run the bundle's weights in PyTorch, in the bundle's precision and fold mode."""
    m = bundle.manifest
    return open_network(m.config, m.plan, PRECISIONS[m.precision], m.limits, m.fold, readers_of(bundle), device)


def readers_of(bundle: Bundle) -> dict[str, Callable[[], Tensor]]:
    """Store name -> reader of the mapped tensor, without a copy."""
    return {name: lambda name=name: bundle.store.tensor(name) for name in bundle.store.entries}


def health() -> Health:
    status = "runs bundles on the CPU or a GPU: the reference, every graph's module in eager mode"
    return Health(version=torch.__version__, runs=True, status=status)


PYTORCH = Backend(
    open=open_bundle, open_low_memory=open_bundle, private_bytes=lambda bundle: 0, health=health, open_on=open_bundle
)
