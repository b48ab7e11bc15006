"""The PyTorch reference behind the sessions' interface: the very modules that are traced, run eagerly."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..any_config import AnyConfig
from ..bundle import Bundle
from ..config import Limits
from ..export.graphs import graphs_of
from ..graph import GraphSpec
from ..health import Health
from ..model.network import build_network, load_parameters, parameter_shapes
from ..plan import SkipPlan
from ..precision import PRECISIONS, Precision
from .backend import Backend
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
    """A runtime on the device over the network with these parameters (store name -> reader); more than the network's may be there."""
    with torch.device("meta"):
        network = build_network(config, plan, precision, limits)
    load_parameters(network, {name: _moved(parameters[name], device) for name in parameter_shapes(network)})
    graphs = graphs_of(config, fold).items()
    sessions = {name: PyTorchSession(g.module(network), g.spec(config, plan, precision, limits)) for name, g in graphs}
    return Runtime("pytorch", config, plan, limits, sessions, device)


def _moved(read: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    return lambda: read().to(device)


def open_bundle(bundle: Bundle) -> Runtime:
    """The bundle's own weights in PyTorch, in the bundle's precision and fold mode."""
    m = bundle.manifest
    readers = {name: lambda name=name: bundle.store.tensor(name) for name in bundle.store.entries}
    return open_network(m.config, m.plan, PRECISIONS[m.precision], m.limits, m.fold, readers)


def health() -> Health:
    does = "the reference: every graph's own modules, eagerly, in memory"
    return Health(version=torch.__version__, runs=True, does=does)


PYTORCH = Backend(open=open_bundle, open_sparing=open_bundle, private_bytes=lambda bundle: 0, health=health)
