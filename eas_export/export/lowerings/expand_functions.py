"""Replace newer operators by the older ones that define them.

    y = Swish(x)   ->   y = Mul(x, Sigmoid(Mul(x, alpha)))

The definitions are ONNX's own: the operators' function bodies in the onnx package.
"""

from collections.abc import Callable

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

DOMAIN = "eas_export.expanded"


class ExpandFunctions(ir.passes.InPlacePass):
    """Every node of an operator that `opset` does not have, or for which `also` is true, is replaced by the operator's function body, in its
    oldest version. Raises where there is none. A body may depend on its inputs' types, so those must be known."""

    def __init__(self, opset: int, also: Callable[[ir.Node], bool] = lambda node: False):
        super().__init__()
        self.opset, self.also = opset, also

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports[""]
        newer = [n for n in model.graph if self.also(n) or not onnx.defs.has(n.op_type, self.opset, n.domain)]
        for number, node in enumerate(newer):
            function = _body(node, opset, str(number))
            model.functions[function.identifier()] = function
            node.domain, node.overload = DOMAIN, str(number)
        if newer:
            common.InlinePass()(model)
        return ir.passes.PassResult(model, bool(newer))


def _body(node: ir.Node, opset: int, overload: str) -> ir.Function:
    """The operator's function body for this node, as a separate function."""
    schema = _oldest(node.op_type, opset)
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.from_proto(attribute.default_value)
    if schema.has_function:
        proto = schema.function_body
    else:
        types = [ir.to_proto(value).type.SerializeToString() for value in node.inputs]
        proto = schema.get_context_dependent_function(ir.to_proto(node).SerializeToString(), types)
        proto = onnx.FunctionProto.FromString(proto)
    del proto.output[len(node.outputs) :]  # only the results that the node has
    proto.domain, proto.overload = DOMAIN, overload
    for each in proto.opset_import:
        each.version = opset
    return ir.from_proto(proto)


def _oldest(op_type: str, opset: int) -> onnx.defs.OpSchema:
    versions = [v for v in range(1, opset + 1) if onnx.defs.has(op_type, v, "")]
    return onnx.defs.get_schema(op_type, versions[0])
