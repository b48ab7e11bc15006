"""Faults that an exporter could make, one function each: they edit one layer of a graph, or of the store, in place.

A place is found by what is there: names of weights, inputs and outputs, and what operators do. Raises InternalError where a graph is
not as expected.
"""

from collections.abc import Iterable

import onnx_ir as ir

from ..core.errors import InternalError
from ..core.plan import SkipPlan
from ..export.derived_bundle import DerivedBundle
from ..networks.decoder.modules import KeptBlock, SkippedBlock

# What writes into a cache -> which of its inputs says where to, and what one slot is in that: of slots [B] a number, of places
# [B, H, 1, 3] the last of (row, head, slot)
WRITERS = {"TensorScatter": (2, 1), "ScatterND": (1, [0, 0, 1])}


def bias_from_folded_weight(copy: DerivedBundle, graph: str, layer: int) -> None:
    """b' = (W U) m1   ->   b' = W' (U m1), where W' is the folded weight"""
    name = f"layers.{layer}.{_first_folded(copy.manifest.plan, layer)}"
    edited = copy.graph(graph)
    bias = _maker(edited, _output(edited, f"folded.{name}.bias"), "MatMul")
    product, inner_bias = bias.inputs
    weight, outer = _maker(edited, product, "MatMul").inputs
    if weight.name != f"{name}.weight":
        raise _unexpected(edited, f"folded.{name}.bias is made of {weight.name}")
    tape = ir.tape.Tape()
    mixed = tape.op("MatMul", [outer, inner_bias])  # U m1 [dim]
    edited.insert_before(bias, tape.nodes)
    bias.replace_input_with(0, _output(edited, f"folded.{name}.weight"))
    bias.replace_input_with(1, mixed)


def scaled_router(copy: DerivedBundle, graph: str, layer: int) -> None:
    """router   ->   router * [1, .. 1.01, .. 1] with the other number at the layer: router [B, layers, 2] float32"""
    edited, layers = copy.graph(graph), copy.manifest.config.layers
    router = _input(edited, "router")
    factors = [[[1.01 if i == layer else 1.0] * 2 for i in range(layers)]]
    tape = ir.tape.Tape()
    scaled = tape.op("Mul", [router, _constant(tape, factors, ir.DataType.FLOAT)])
    _read_instead({router: scaled}, [use.node for use in router.uses() if use.node not in tape.nodes])
    edited.insert_before(edited[0], tape.nodes)


def transposed_weight(copy: DerivedBundle, graph: str, layer: int) -> None:
    """W [out, in], stored as if it were [in, out] and transposed: where it is square, W^T"""
    name = f"layers.{layer}.{_first_folded(copy.manifest.plan, layer)}.weight"
    weight = copy.weight(name)
    copy.replace_weight(name, weight.reshape(weight.shape[::-1]).T.contiguous())


def later_position(copy: DerivedBundle, graph: str, layer: int) -> None:
    """RoPE of the layer's q and k   ->   of the next position: the layer reads copies of what is made of position_ids alone"""
    edited = copy.graph(graph)
    position = _input(edited, "position_ids")
    tape = ir.tape.Tape()
    later = {position: tape.op("Add", [position, _constant(tape, 1, ir.DataType.INT64)])}
    for node in list(edited):  # written out, RoPE looks up its angles first, once for all layers
        if any(value in later for value in node.inputs) and all(v in later or v.is_initializer() for v in node.inputs):
            later[node.outputs[0]] = tape.op(node.op_type, [later.get(v, v) for v in node.inputs], node.attributes)
    for part in ("q", "k"):
        linear = _linear(edited, f"layers.{layer}.attention.{part}.weight")
        read = _read_instead(later, _until_next_linear(linear))
        if not read:
            raise _unexpected(edited, f"{part} of layer {layer} has no position")
    edited.insert_before(edited[0], tape.nodes)


def earlier_slot(copy: DerivedBundle, graph: str, layer: int) -> None:
    """The layer's key goes into the slot before its own, where there is one; what lies in its own stays there."""
    edited = copy.graph(graph)
    scatter = _maker(edited, _output(edited, f"present.{layer}.key"), *WRITERS)
    at, one = WRITERS[scatter.op_type]
    tape = ir.tape.Tape()
    before = tape.op("Sub", [scatter.inputs[at], _constant(tape, one, ir.DataType.INT64)])
    slot = tape.op("Max", [before, _constant(tape, 0, ir.DataType.INT64)])
    edited.insert_before(scatter, tape.nodes)
    scatter.replace_input_with(at, slot)


def _first_folded(plan: SkipPlan, layer: int) -> str:
    """The first linear layer behind a layer's adapter: "ffn.gate" of a skipped layer, "attention.q" of a kept one."""
    return (SkippedBlock if layer in plan.skipped else KeptBlock).folds[0]


def _read_instead(others: dict[ir.Value, ir.Value], nodes: Iterable[ir.Node]) -> int:
    """Let these nodes read other values; how many they were."""
    places = [(node, at, value) for node in nodes for at, value in enumerate(node.inputs) if value in others]
    for node, at, value in places:
        node.replace_input_with(at, others[value])
    return len(places)


def _linear(graph: ir.Graph, weight: str) -> ir.Node:
    """The linear layer with this weight, folded or as it is."""
    found = [n for n in graph if n.op_type == "Gemm" and n.inputs[1].name in (weight, f"folded.{weight}")]
    if len(found) != 1:
        raise _unexpected(graph, f"{len(found)} linear layers have {weight}")
    return found[0]


def _until_next_linear(linear: ir.Node) -> list[ir.Node]:
    """What depends on a linear layer's output, up to the next linear layers."""
    reached: dict[ir.Node, None] = {}
    ahead = [linear]
    while ahead:
        for node in {use.node: None for value in ahead.pop().outputs for use in value.uses()}:
            if node.op_type != "Gemm" and node not in reached:
                reached[node] = None
                ahead.append(node)
    return list(reached)


def _constant(tape: ir.tape.Tape, numbers: int | list, dtype: ir.DataType) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(numbers, dtype)})


def _input(graph: ir.Graph, name: str) -> ir.Value:
    return _named(graph, graph.inputs, name)


def _output(graph: ir.Graph, name: str) -> ir.Value:
    return _named(graph, graph.outputs, name)


def _named(graph: ir.Graph, values: Iterable[ir.Value], name: str) -> ir.Value:
    found = [value for value in values if value.name == name]
    if not found:
        raise _unexpected(graph, f"there is no {name}")
    return found[0]


def _maker(graph: ir.Graph, value: ir.Value, *op_types: str) -> ir.Node:
    node = value.producer()
    if node is None or node.op_type not in op_types:
        raise _unexpected(graph, f"{value.name} is made by {node and node.op_type}, not by {' or '.join(op_types)}")
    return node


def _unexpected(graph: ir.Graph, what: str) -> InternalError:
    return InternalError(f"graph {graph.name} is not as a fault's place was described: {what}")
