"""Make the targets of Reshape and Expand constant, with -1 or 1 for a free size, instead of shape arithmetic at run time."""

import onnx_ir as ir


class StaticShapes(ir.passes.InPlacePass):
    """1. Reshape whose result has at most one free size: the target has -1 for it
    2. Reshape of a Reshape: reads the first one's input
    3. Expand whose free sizes are those of its input: the target has 1 for them

    Sizes of zero do not occur in our graphs: every Dim has a minimum of 1.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in model.graph:
            target = _TARGETS[node.op_type](node) if node.op_type in _TARGETS else None
            if target is None or _is(node.inputs[1], target):
                continue
            constant = ir.node("Constant", [], {"value": ir.tensor(target, ir.DataType.INT64)})
            constant.outputs[0].name = f"{node.outputs[0].name}_shape"
            model.graph.insert_before(node, constant)
            node.replace_input_with(1, constant.outputs[0])
            source = node.inputs[0].producer()
            if source is not None and node.op_type == source.op_type == "Reshape":
                node.replace_input_with(0, source.inputs[0])
            modified = True
        return ir.passes.PassResult(model, modified)


def _is(value: ir.Value, target: list[int]) -> bool:
    constant = ir.convenience.get_const_tensor(value)
    return constant is not None and constant.numpy().tolist() == target


def _reshape_target(node: ir.Node) -> list[int] | None:
    shape = node.outputs[0].shape
    if shape is None or sum(not isinstance(size, int) for size in shape) > 1:
        return None
    return [size if isinstance(size, int) else -1 for size in shape]


def _expand_target(node: ir.Node) -> list[int] | None:
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None or after is None or len(before) != len(after):
        return None
    if any(not isinstance(size, int) and (size.value is None or size != own) for own, size in zip(before, after)):
        return None  # an unknown size is not even equal to itself
    return [size if isinstance(size, int) else 1 for size in after]


_TARGETS = {"Reshape": _reshape_target, "Expand": _expand_target}
