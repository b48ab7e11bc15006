"""Merge Shape nodes that give the same sizes.

    Shape(a), Shape(b), both of [B, S]   ->   Shape(a) for both

Masks and places that are computed from them become common subexpressions of all layers.
"""

import onnx_ir as ir


class ShareShapes(ir.passes.InPlacePass):
    """A Shape whose sizes an earlier Shape gives is replaced by the earlier one. Sizes are equal if they are the same number or the same
    name; an unknown size is not even equal to itself."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        first: dict[tuple, ir.Value] = {}
        modified = False
        for node in list(model.graph):
            sizes = shape_of(node) if node.op_type == "Shape" else None
            if sizes is None or any(not isinstance(size, int) and size.value is None for size in sizes):
                continue
            earlier = first.setdefault(tuple(sizes), node.outputs[0])
            if earlier is not node.outputs[0]:
                ir.convenience.replace_all_uses_with(node.outputs[0], earlier)
                modified = True
        return ir.passes.PassResult(model, modified)


def shape_of(node: ir.Node) -> list[int | ir.SymbolicDim] | None:
    """The sizes that a Shape node gives, None if unknown."""
    shape, start, end = node.inputs[0].shape, node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
    return None if shape is None else list(shape)[start:end]
