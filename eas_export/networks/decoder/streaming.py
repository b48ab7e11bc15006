"""The network in float32 with one block's weights in memory at a time."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn

from ...core.configs.decoder import ModelConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import PRECISIONS
from ...system.machine import give_back_memory
from ..network import Readers, build_network, load_parameters, parameter_shapes


class StreamedNetwork:
    """A network whose blocks are loaded one at a time, by `for block in decoder.layers`.

    parameters: store name -> reader of a float32 tensor; those that are not the network's are ignored
    """

    def __init__(self, config: ModelConfig, plan: SkipPlan, limits: Limits, parameters: Readers):
        network = build_network(config, plan, PRECISIONS["fp32"], limits)
        self._parameters = parameters
        self.decoder = network.decoder
        self.tower = network.vision if config.vision else None
        self.layers = list(network.decoder.layers)  # without their weights
        network.decoder.layers = _OneAtATime(
            network.decoder.layers, lambda layer, block: self.loaded(f"layers.{layer}", block)
        )

    @contextmanager
    def loaded(self, prefix: str, module: nn.Module) -> Iterator[nn.Module]:
        """A context in which a module has its weights. prefix: the module's name in the store"""
        dot = f"{prefix}." if prefix else ""
        load_parameters(module, {name: self._parameters[f"{dot}{name}"] for name in parameter_shapes(module)})
        try:
            yield module
        finally:
            module.to_empty(device="meta")
            give_back_memory()

    def surroundings(self) -> AbstractContextManager[nn.Module]:
        """A context in which all of the decoder but its blocks is loaded."""
        others = {name: module for name, module in self.decoder.named_children() if name != "layers"}
        return self.loaded("", nn.ModuleDict(others))


class _OneAtATime(nn.ModuleList):
    def __init__(self, blocks: nn.ModuleList, load: Callable[[int, nn.Module], AbstractContextManager[nn.Module]]):
        super().__init__(blocks)
        self.load = load

    def __iter__(self) -> Iterator[nn.Module]:
        for layer, block in enumerate(super().__iter__()):
            with self.load(layer, block):
                yield block
