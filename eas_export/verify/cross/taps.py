"""The encode graph run for what goes on inside it: what its blocks are given and give, found by the weights' names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto
from torch import Tensor

from ...backends.contract import Backend
from ...backends.runtime import Runtime, Tensors
from ...bundle.bundle import Bundle
from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.errors import UserError
from ...generation.encode import graph_inputs
from ...networks.cross_encoder.pairs import Pairs
from ..taps import load_graph, run_with_outputs
from .network import Block

GRAPH = "encode"


@dataclass(frozen=True)
class Tap:
    """value: in the graph; shape: of it for one pair"""

    value: str
    shape: tuple[int, ...]


def block_taps(bundle: Bundle, blocks: Sequence[Block]) -> dict[str, Tap]:
    """What each block gives, by its name, and what it is given, by its name and " in". Raises UserError for a graph without them."""
    model, config = load_graph(bundle, GRAPH), bundle.manifest.config
    taps = {}
    for block in blocks:
        shape = _shape(config, block)
        taps[f"{block.name} in"] = Tap(_input_of(model, block), shape)
        taps[block.name] = Tap(_output_of(model, block), shape)
    return taps


def stage_taps(bundle: Bundle, block: Block, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tap]:
    """A block's stages ("attention.q") that the graph has. shapes: stage -> of what it gives"""
    model = load_graph(bundle, GRAPH)
    found = {}
    for stage, shape in shapes.items():
        for parameter in ("bias", "weight"):  # a linear layer in two nodes has its sum behind the second
            if readers := _readers(model, f"{block.name}.{stage}.{parameter}"):
                found[stage] = Tap(readers[0].output[0], shape)
                break
    return found


def run_tapped(
    bundle: Bundle, backend: Backend, runtime: Runtime, pairs: Pairs, taps: Mapping[str, Tap]
) -> tuple[Tensors, dict[str, Tensor]]:
    """Run the graph on one pair: its outputs, and what the taps gave in float32. Raises UserError where it does not run."""
    named = {f"tap.{i}": (tap.value, tap.shape) for i, tap in enumerate(taps.values())}
    outputs = run_with_outputs(bundle, backend, runtime, GRAPH, graph_inputs(runtime, pairs), named)
    values = {name: outputs.pop(tap).float() for name, tap in zip(taps, named)}
    return {name: value.float() for name, value in outputs.items()}, values


def _shape(config: CrossEncoderConfig, block: Block) -> tuple[int, int]:
    """Of a block's tokens for one pair."""
    images = config.images
    return {
        "text.layers": (config.text_length, config.text.width),
        "vision.blocks": (images * config.image_tokens, config.image.width),
        "text_layers": (images * config.text_length, config.dim),
        "image_layers": (images * config.image_tokens, config.dim),
    }[block.row]


def _input_of(model: ModelProto, block: Block) -> str:
    for first in ("norm1.weight", "attention.q.weight", "attention.down.weight"):
        if readers := _readers(model, f"{block.name}.{first}"):
            return readers[0].input[0]
    raise _unknown(model, block)


def _output_of(model: ModelProto, block: Block) -> str:
    if readers := _readers(model, f"{block.name}.ffn_norm.weight"):
        return readers[0].output[0]
    for reader in _readers(model, f"{block.name}.fc2.weight"):
        for addition in _readers(model, reader.output[0]):
            if addition.op_type == "Add":
                return addition.output[0]
    raise _unknown(model, block)


def _readers(model: ModelProto, value: str) -> list[NodeProto]:
    return [node for node in model.graph.node if value in node.input]


def _unknown(model: ModelProto, block: Block) -> UserError:
    fix = "the graph was changed after it was built: build again with --force"
    return UserError(
        f"it has no block {block.name} as an exported graph has", where=f"graph {model.graph.name}", fix=fix
    )
