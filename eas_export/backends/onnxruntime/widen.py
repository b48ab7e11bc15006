"""Run bfloat16 graphs in float32, for CPUs without bfloat16 kernels: the same weights, computed at a higher precision.

This verifies the graph and the weights, but not the rounding of bfloat16 in between; that takes a GPU.
"""

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from ...core.graph_spec import GraphSpec, TensorSpec

NARROW, WIDE = "bfloat16", "float32"


def widen_spec(spec: GraphSpec) -> GraphSpec:
    """The spec of the widened graph."""

    def wide(tensor: TensorSpec) -> TensorSpec:
        return tensor.model_copy(update={"dtype": WIDE}) if tensor.dtype == NARROW else tensor

    return spec.model_copy(update={"inputs": tuple(map(wide, spec.inputs)), "outputs": tuple(map(wide, spec.outputs))})


def widen_model(model: ModelProto) -> ModelProto:
    """Turn every bfloat16 of the graph into float32, in place. Weights outside the file stay, and are cast at their first use,
    but of a table that is looked up only the rows."""
    graph = model.graph
    stored = {i.name for i in graph.initializer if i.data_type == TensorProto.BFLOAT16 and i.external_data}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name not in stored:
            value.type.tensor_type.elem_type = _wide(value.type.tensor_type.elem_type)
    tensors = [i for i in graph.initializer if i.name not in stored]
    nodes: list[NodeProto] = []
    cast: set[str] = set()
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype"):
                attribute.i = _wide(attribute.i)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
        if node.op_type == "Gather" and node.input[0] in stored:
            rows, wide = f"{node.output[0]}_narrow", node.output[0]
            node.output[0] = rows
            nodes += [node, onnx.helper.make_node("Cast", [rows], [wide], to=TensorProto.FLOAT)]
            continue
        for position, name in enumerate(node.input):
            if name in stored and name not in cast:
                nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT))
                cast.add(name)
            node.input[position] = f"{name}_wide" if name in stored else name
        nodes.append(node)
    for tensor in tensors:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(WIDE), tensor.name))
    if stored:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    return model


def _wide(dtype: int) -> int:
    return TensorProto.FLOAT if dtype == TensorProto.BFLOAT16 else dtype
