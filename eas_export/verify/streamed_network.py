"""The network in float32 with one block's weights in memory at a time."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from torch import Tensor, nn

from ..core.configs.decoder import ModelConfig
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import PRECISIONS
from ..networks.network import build_network, load_parameters, parameter_shapes
from ..system.machine import give_back_memory

Readers = Mapping[str, Callable[[], Tensor]]


class StreamedNetwork:
    """A network whose blocks have their weights while it is their turn, in `for block in decoder.layers`.

    parameters: store name -> reader of a float32 tensor; more than the network's may be there
    """

    def __init__(self, config: ModelConfig, plan: SkipPlan, limits: Limits, parameters: Readers):
        network = build_network(config, plan, PRECISIONS["fp32"], limits)
        self._parameters = parameters
        self.decoder, self.vision = network.decoder, network.vision
        self.layers = list(network.decoder.layers)  # without their weights
        network.decoder.layers = _OneAtATime(
            network.decoder.layers, lambda layer, block: self.loaded(f"layers.{layer}", block)
        )

    def loaded(self, prefix: str, module: nn.Module) -> AbstractContextManager[nn.Module]:
        """A module that has its weights inside the block, and only there; prefix: its name in the store."""
        dot = f"{prefix}." if prefix else ""
        return _Loaded(module, {name: self._parameters[f"{dot}{name}"] for name in parameter_shapes(module)})

    def surroundings(self) -> AbstractContextManager[nn.Module]:
        """All of the decoder but its blocks, loaded."""
        others = {name: module for name, module in self.decoder.named_children() if name != "layers"}
        return self.loaded("", nn.ModuleDict(others))


class _Loaded:
    def __init__(self, module: nn.Module, readers: Readers):
        self.module, self.readers = module, readers

    def __enter__(self) -> nn.Module:
        return load_parameters(self.module, self.readers)

    def __exit__(self, *_: object) -> None:
        self.module.to_empty(device="meta")
        give_back_memory()


class _OneAtATime(nn.ModuleList):
    def __init__(self, blocks: nn.ModuleList, load: Callable[[int, nn.Module], AbstractContextManager[nn.Module]]):
        super().__init__(blocks)
        self.load = load

    def __iter__(self) -> Iterator[nn.Module]:
        for layer, block in enumerate(super().__iter__()):
            with self.load(layer, block):
                yield block
