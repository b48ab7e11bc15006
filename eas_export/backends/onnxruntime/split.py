"""Split a graph into a chain of smaller ones, so that only one block's weights are needed at a time."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx
from onnx import ModelProto, NodeProto

# The parameter "layers.3.ffn.up.weight" belongs to block "layers.3", "types" to block "types"
BLOCK = re.compile(r"^(.*?(?:layers|blocks)\.\d+|[^.]+)(?:\.|$)")


@dataclass(frozen=True)
class Part:
    """model: a complete graph; inputs, outputs: names of its values; needed: names that later parts also read"""

    model: ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    needed: frozenset[str]


def split(model: ModelProto) -> list[Part]:
    """Split a graph between one block's matrices and the next one's. Weights (initializers outside the file) are not read. Vectors do
    not count: a node that joins all layers' biases would join all layers."""
    model = onnx.shape_inference.infer_shapes(model)  # every value between parts needs a type
    graph = model.graph
    types = {v.name: v for v in (*graph.input, *graph.output, *graph.value_info)}
    constants = {i.name: i for i in graph.initializer}
    matrices = {i.name for i in graph.initializer if i.external_data and len(i.dims) > 1}
    stages = _stages(graph.node, matrices, constants.keys())
    results = {v.name for v in graph.output}
    names = sorted(set(stages))
    nodes = {stage: [n for n, s in zip(graph.node, stages) if s == stage] for stage in names}
    reads = {stage: {i for node in nodes[stage] for i in node.input if i} for stage in names}
    parts, later = [], set(results)
    for stage in reversed(names):
        made = {o for node in nodes[stage] for o in node.output if o}
        inputs = sorted(reads[stage] - made - set(constants))
        outputs = sorted(made & later)
        part = onnx.helper.make_graph(
            nodes[stage],
            f"{graph.name}_{stage}",
            [types[name] for name in inputs],
            [types[name] for name in outputs],
            [constants[name] for name in sorted(reads[stage] & set(constants))],
        )
        complete = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
        parts.append(Part(complete, tuple(inputs), tuple(outputs), frozenset(later)))
        later |= reads[stage]
    return parts[::-1]


def _stages(nodes: Sequence[NodeProto], matrices: set[str], constants: Collection[str]) -> list[int]:
    """Each node's stage: that of its block, in order of first use, or of its inputs if that is later. What is made of weights alone is made
    in the first stage that reads it."""
    order: dict[str, int] = {}
    made: dict[str, int] = {}
    stages = []
    for node in nodes:
        blocks = [BLOCK.match(name)[1] for name in node.input if name in matrices]
        for block in blocks:
            order.setdefault(block, len(order))
        stage = max([order[block] for block in blocks] + [made[name] for name in node.input if name in made], default=0)
        made |= dict.fromkeys(node.output, stage)
        stages.append(stage)
    read: dict[str, int] = {}
    for at, node in reversed([*enumerate(nodes)]):
        if all(name in constants for name in node.input):
            stages[at] = min((read[name] for name in node.output if name in read), default=stages[at])
        read |= {name: min(stages[at], read.get(name, stages[at])) for name in node.input}
    return stages
