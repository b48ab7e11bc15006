"""Update caches by ScatterND, which is older than TensorScatter.

    TensorScatter(cache, update, slots)   ->   ScatterND(cache, places, update)

    places[b, h, l]  =  [b, h, slots[b] + l]  =  [b, 0, 0] + [0, h, 0] + [0, 0, slots[b]] + [0, 0, l]

Each row of head_dim numbers is written as one block. All layers that write the same number of rows at the same slots share the places.
Where input and output are the same memory, ONNX Runtime's ScatterND writes the new rows only.
"""

from functools import reduce

import onnx_ir as ir

# Inputs of TensorScatter, and of ScatterND
CACHE, UPDATE, SLOTS = 0, 1, 2
PLACES, ROWS = 1, 2


class ScatterPlaces(ir.passes.InPlacePass):
    """Every TensorScatter over slots becomes a ScatterND: cache [B, H, T, head_dim], update [B, H, L, head_dim], slots [B] int64, with H
    fixed. Other axes and modes stay."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        made: dict[tuple, ir.Value] = {}
        scatters = [node for node in model.graph if node.op_type == "TensorScatter" and _over_slots(node)]
        for node in scatters:
            update, slots = node.inputs[UPDATE], node.inputs[SLOTS]
            rows = update.shape[2] if isinstance(update.shape[2], int) else update.shape[2].value
            shared = (slots, update.shape[1], update if rows is None else rows)
            if shared not in made:
                tape = ir.tape.Tape()
                made[shared] = _places(tape, update, slots)
                model.graph.insert_before(node, tape.nodes)
            node.op_type = "ScatterND"
            node.attributes.clear()
            node.replace_input_with(PLACES, made[shared])
            node.replace_input_with(ROWS, update)
        return ir.passes.PassResult(model, bool(scatters))


def _over_slots(node: ir.Node) -> bool:
    axis, mode = node.attributes.get_int("axis", -2), node.attributes.get_string("mode", "linear")
    return mode == "linear" and axis in (2, -2) and len(node.inputs) > SLOTS and node.inputs[SLOTS] is not None


def _places(tape: ir.tape.Tape, update: ir.Value, slots: ir.Value) -> ir.Value:
    """[B, H, L, 3] int64; parts that are all zero are left out."""
    op, (heads, rows) = tape.op, update.shape[1:3]

    def constant(numbers: int | list) -> ir.Value:
        return op("Constant", [], {"value": ir.tensor(numbers, ir.DataType.INT64)})

    def along(numbers: ir.Value, shape: list[int], unit: list[int]) -> ir.Value:
        return op("Mul", [op("Reshape", [numbers, constant(shape)]), constant(unit)])

    def count(size: ir.Value) -> ir.Value:
        """[1] -> 0, 1, .. size - 1"""
        return op("Range", [constant(0), op("Squeeze", [size]), constant(1)])

    parts = [
        along(slots, [-1, 1, 1, 1], [0, 0, 1]),  # [B, 1, 1, 3]
        constant([[[0, head, 0]] for head in range(heads)]),  # [H, 1, 3]
    ]
    if rows != 1:
        parts.append(along(count(op("Shape", [update], {"start": 2, "end": 3})), [-1, 1], [0, 0, 1]))  # [L, 3]
    if slots.shape[0] != 1:
        parts.append(along(count(op("Shape", [slots])), [-1, 1, 1, 1], [1, 0, 0]))  # [B, 1, 1, 3]
    return reduce(lambda whole, part: op("Add", [whole, part]), parts)
