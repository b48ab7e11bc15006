"""A cross-encoder in PyTorch in float32, as it was trained or folded, and the rows of blocks that it has."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...backends.runtime import Tensors
from ...bundle.manifest import Manifest
from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.plan import SkipPlan
from ...core.precision import PRECISIONS
from ...networks.cross_encoder.modules import CrossEncoder, unfolded_cross_encoder
from ...networks.cross_encoder.pairs import Pairs
from ...networks.graphs import graphs_of
from ...networks.network import build_network, load_parameters, parameter_shapes
from ...networks.skeleton import skeleton

Readers = Mapping[str, Callable[[], Tensor]]
PARTS = {  # rows of blocks, by their names in the network, in the order of computation
    "text.layers": "text encoder",
    "vision.blocks": "image encoder",
    "text_layers": "text stream",
    "image_layers": "image stream",
}


@dataclass(frozen=True)
class Block:
    """One block: the row that it stands in, its number there, and its name in the network and the store ("text_layers.3")."""

    row: str
    layer: int

    @property
    def name(self) -> str:
        return f"{self.row}.{self.layer}"

    @property
    def part(self) -> str:
        return PARTS[self.row]


def blocks_of(config: CrossEncoderConfig) -> list[Block]:
    """Every block in the order of computation; the streams' layers in turns."""
    rows = [("text.layers", config.text.layers), ("vision.blocks", config.image.blocks)]
    found = [Block(row, layer) for row, count in rows for layer in range(count)]
    return found + [Block(row, i) for i in range(config.layers) for row in ("text_layers", "image_layers")]


def skips_any(config: CrossEncoderConfig, plan: SkipPlan, block: Block) -> bool:
    """Whether an attention of the block is skipped."""
    skipped = {(f"{each.stream}_layers", each.layer) for each in config.attentions(plan.skipped)}
    return (block.row, block.layer) in skipped


def open_unfolded(m: Manifest, parameters: Readers) -> CrossEncoder:
    """Adapters where they were trained."""
    with skeleton():
        network = unfolded_cross_encoder(m.config, m.plan).eval().requires_grad_(False)
    return _load(network, parameters)


def open_folded(m: Manifest, parameters: Readers) -> CrossEncoder:
    """Adapters in the weights. parameters: more than the network's may be there"""
    network = build_network(m.config, m.plan, PRECISIONS["fp32"], m.limits)
    return _load(network, parameters)


@torch.no_grad()
def answer(network: CrossEncoder, pairs: Pairs) -> Tensors:
    """What the encode graph gives."""
    graph = graphs_of(network.config, "offline")["encode"].module(network)
    return graph(pairs.inputs(network.config, torch.float32))


@contextmanager
def watched(network: CrossEncoder, blocks: list[Block], see: Callable[[Block, Tensor], None]) -> Iterator[None]:
    """`see` is given what each block gives while the network runs inside."""
    handles = [
        network.get_submodule(block.name).register_forward_hook(lambda _, __, out, block=block: see(block, out))
        for block in blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _load(network: nn.Module, parameters: Readers) -> CrossEncoder:
    return load_parameters(network, {name: parameters[name] for name in parameter_shapes(network)})
