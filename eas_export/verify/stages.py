"""A block's stages in EAS terms: where they are in the PyTorch block, and in an ONNX graph.

An ONNX graph has no blocks, but its weights have names: a stage is what the node behind a weight gives, or is given. So every graph of a
bundle can show its stages without having been exported for it: outputs are added to a copy (a debug graph), never to what is shipped.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from ..core.errors import UserError


@dataclass(frozen=True)
class Stage:
    """module: the block's own ("attention.q"); weight: of the node in a graph; before: what the node is given, not what it gives"""

    name: str
    module: str
    weight: str
    before: bool = False


STAGES = (
    Stage("norm", "norm", "norm.weight"),
    Stage("adapter", "adapter", "adapter.up"),
    Stage("q", "attention.q", "attention.q.weight"),
    Stage("k", "attention.k", "attention.k.weight"),
    Stage("v", "attention.v", "attention.v.weight"),
    Stage("attention", "attention.o", "attention.o.weight", before=True),
    Stage("o", "attention.o", "attention.o.weight"),
    Stage("ffn norm", "ffn_norm", "ffn_norm.weight"),
    Stage("gate", "ffn.gate", "ffn.gate.weight"),
    Stage("up", "ffn.up", "ffn.up.weight"),
    Stage("down", "ffn.down", "ffn.down.weight"),
)
OUT = "block"  # what stands behind it
ORDER = (
    *("norm", "router", "pooled", "adapter", "q", "k", "v", "key cache", "value cache", "attention", "o", "ffn norm"),
    *("gate", "up", "down", OUT),
)


@contextmanager
def watched(block: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Stage -> what it gave when the block ran inside."""
    seen: dict[str, Tensor] = {}

    def keep(stage: Stage):
        def hook(module: nn.Module, given: tuple, result: Tensor) -> None:
            seen[stage.name] = given[0] if stage.before else result

        return hook

    modules = dict(block.named_modules())
    with ExitStack() as hooks:
        for stage in STAGES:
            if stage.module in modules:
                handle = modules[stage.module].register_forward_hook(keep(stage))
                hooks.callback(handle.remove)
        yield seen


def find_stages(model: ModelProto, layer: int) -> dict[str, str]:
    """Stage -> the value in the graph, for every stage of the layer that the graph has."""
    readers = _readers(model)
    found = {}
    for stage in STAGES:
        for weight in (f"layers.{layer}.{stage.weight}", f"folded.layers.{layer}.{stage.weight}"):
            if nodes := readers.get(weight):
                found[stage.name] = nodes[0].input[0] if stage.before else nodes[0].output[0]
    return found


def find_boundaries(model: ModelProto, layers: int) -> dict[int, str]:
    """Layer -> the value behind its block; -1 -> what the first block is given. Raises UserError for a graph without them."""
    readers, boundaries = _readers(model), {}
    for layer in range(layers):
        stages = find_stages(model, layer)
        if "down" not in stages:
            raise _unknown(model, layer)
        addition = _addition(model, layer, stages["down"], readers)
        if layer == 0:
            first = stages.get("o", stages["down"])
            boundaries[-1] = next(name for name in _addition(model, 0, first, readers).input if name != first)
        boundaries[layer] = addition.output[0]
    return boundaries


def _readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Value -> the nodes that read it."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _addition(model: ModelProto, layer: int, value: str, readers: dict[str, list[NodeProto]]) -> NodeProto:
    """The residual addition behind a value of the layer."""
    for node in readers.get(value, ()):
        if node.op_type == "Add":
            return node
    raise _unknown(model, layer)


def _unknown(model: ModelProto, layer: int) -> UserError:
    fix = "the graph was changed after it was built: build again with --force"
    return UserError(f"it has no block {layer} as an exported graph has", where=f"graph {model.graph.name}", fix=fix)
