"""Remove nodes that have no effect. Function bodies cover every case of an operator, ours is a simple one.

1. Mul by 1
2. Slice or Reshape to the sizes that its input has, also across other reshaping:
   Reshape(Unsqueeze(x), sizes of x)   ->   x
3. Split into one part that is everything and empty others
"""

import onnx_ir as ir

from .share_shapes import shape_of

Sizes = list[int | ir.SymbolicDim]
RESHAPING = ("Reshape", "Unsqueeze", "Squeeze")


class DropNoOps(ir.passes.InPlacePass):
    """Sizes must be known for 2 and 3, by number or by name. A Reshape's are inferred from its target, if that consists of shapes and
    constants."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            rule = _RULES.get(node.op_type)
            output, same = rule(node) if rule else (None, None)
            if same is not None and not output.is_graph_output():
                ir.convenience.replace_all_uses_with(output, same)
                modified = True
        return ir.passes.PassResult(model, modified)


def _product(node: ir.Node) -> tuple[ir.Value, ir.Value | None]:
    for one, other in (node.inputs, reversed(node.inputs)):
        number = ir.convenience.get_const_tensor(one)
        if number is None or number.size != 1 or number.numpy().item() != 1 or other.shape is None:
            continue
        if len(number.shape) <= len(other.shape):  # otherwise the product has more axes
            return node.outputs[0], other
    return node.outputs[0], None


def _slice(node: ir.Node) -> tuple[ir.Value, ir.Value | None]:
    steps = ir.convenience.get_const_tensor(node.inputs[4]) if len(node.inputs) > 4 else ir.tensor([1])
    forward = steps is not None and (steps.numpy() == 1).all()
    data, output = node.inputs[0], node.outputs[0]
    return output, data if forward and _equal(data.shape, output.shape) else None


def _reshape(node: ir.Node) -> tuple[ir.Value, ir.Value | None]:
    output, source = node.outputs[0], node.inputs[0]
    target = _numbers(node.inputs[1])
    if target is not None and -1 not in target and 0 not in target:
        output.shape = ir.Shape(target)
    while not _equal(source.shape, output.shape):
        maker = source.producer()
        if maker is None or maker.op_type not in RESHAPING:
            return output, None
        source = maker.inputs[0]
    return output, source


def _split(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    whole = [output for output in node.outputs if _equal(output.shape, node.inputs[0].shape)]
    used = [output for output in node.outputs if output.uses() or output.is_graph_output()]
    return (whole[0], node.inputs[0]) if whole and used == whole else (None, None)


_RULES = {"Mul": _product, "Slice": _slice, "Reshape": _reshape, "Split": _split}


def _numbers(value: ir.Value) -> Sizes | None:
    """The sizes in a small tensor, from constants, Shape and Concat; None if they are unknown."""
    constant = ir.convenience.get_const_tensor(value)
    if constant is not None:
        return constant.numpy().tolist() if len(constant.shape) == 1 else None
    node = value.producer()
    if node is None or node.op_type not in ("Shape", "Concat"):
        return None
    if node.op_type == "Shape":
        return shape_of(node)
    parts = [_numbers(part) for part in node.inputs]
    return None if None in parts else [size for part in parts for size in part]


def _equal(one: ir.Shape | None, other: ir.Shape | None) -> bool:
    """Whether both shapes are known and equal."""
    known = one is not None and other is not None and list(one) == list(other)
    return known and all(isinstance(size, int) or size.value is not None for size in one)
