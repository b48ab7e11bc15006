"""Limit how much of its cache an Attention reads by a mask instead of lengths.

    Attention(q, k, v, nonpad_kv_seqlen = lengths)         ->   Attention(q, k, v, attn_mask = [0, 1, .. T - 1] < lengths)
    Attention(q, k, v, attn_mask, nonpad_kv_seqlen = ..)   ->   Attention(q, k, v, attn_mask), where the mask says as much

TensorRT's parser silently drops nonpad_kv_seqlen, and opsets before 24 do not have it; a mask works everywhere.
"""

import onnx_ir as ir

MASK, LENGTHS = 3, 6  # inputs of Attention-24


class LengthsToMask(ir.passes.InPlacePass):
    """Attention's lengths [B] int64 become a mask [B, 1, 1, T] bool, one for all layers that share them. q must be one token: the mask
    is not causal."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        masks: dict[ir.Value, ir.Value] = {}
        modified = False
        for node in list(model.graph):
            if node.op_type != "Attention" or len(node.inputs) <= LENGTHS or node.inputs[LENGTHS] is None:
                continue
            lengths, modified = node.inputs[LENGTHS], True
            if node.inputs[MASK] is None:
                if lengths not in masks:
                    nodes = _mask(lengths, node.inputs[1])
                    model.graph.insert_before(node, nodes)
                    masks[lengths] = nodes[-1].outputs[0]
                node.replace_input_with(MASK, masks[lengths])
            node.resize_inputs(MASK + 1)
        return ir.passes.PassResult(model, modified)


def _mask(lengths: ir.Value, keys: ir.Value) -> list[ir.Node]:
    """lengths [B], keys [B, H, T, head_dim] -> nodes; the last one gives the mask [B, 1, 1, T]"""
    zero, one, column = (_constant(lengths, part, numbers) for part, numbers in _CONSTANTS.items())
    size = ir.node("Shape", [keys], {"start": 2, "end": 3})  # [1]
    slots = ir.node("Squeeze", [size.outputs[0]])
    positions = ir.node("Range", [zero.outputs[0], slots.outputs[0], one.outputs[0]])  # [T]
    wide = ir.node("Reshape", [lengths, column.outputs[0]])  # [B, 1, 1, 1]
    below = ir.node("Less", [positions.outputs[0], wide.outputs[0]])
    for node, part in ((size, "size"), (slots, "slots"), (positions, "positions"), (wide, "wide"), (below, "mask")):
        node.outputs[0].name = f"{lengths.name}_{part}"
        node.outputs[0].dtype = ir.DataType.BOOL if node is below else ir.DataType.INT64
    size.outputs[0].shape, slots.outputs[0].shape = ir.Shape([1]), ir.Shape([])
    positions.outputs[0].shape = ir.Shape([keys.shape[2]])
    wide.outputs[0].shape = ir.Shape([lengths.shape[0], 1, 1, 1])
    below.outputs[0].shape = ir.Shape([lengths.shape[0], 1, 1, keys.shape[2]])
    return [zero, one, column, size, slots, positions, wide, below]


_CONSTANTS = {"zero": 0, "one": 1, "column": [-1, 1, 1, 1]}


def _constant(lengths: ir.Value, part: str, numbers: int | list[int]) -> ir.Node:
    node = ir.node("Constant", [], {"value": ir.tensor(numbers, ir.DataType.INT64)})
    node.outputs[0].name = f"{lengths.name}_{part}"
    return node
