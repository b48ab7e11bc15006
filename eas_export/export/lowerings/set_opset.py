"""Declare a model's older opset."""

import onnx
import onnx_ir as ir

from ...core.errors import InternalError


class SetOpset(ir.passes.InPlacePass):
    """Converts nothing: raises InternalError for an operator or an attribute that `opset` does not have. Whether it allows the nodes'
    types is left to onnx.checker."""

    def __init__(self, opset: int):
        super().__init__()
        self.opset = opset

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in model.graph.all_nodes():
            if not onnx.defs.has(node.op_type, self.opset, node.domain):
                raise InternalError(f"graph {model.graph.name}: opset {self.opset} has no {node.op_type}")
            unknown = set(node.attributes) - set(onnx.defs.get_schema(node.op_type, self.opset, node.domain).attributes)
            if unknown:
                what = f"{node.op_type} of opset {self.opset} has no attribute {min(unknown)}"
                raise InternalError(f"graph {model.graph.name}: {what}")
        modified = model.opset_imports[""] != self.opset
        model.opset_imports[""] = self.opset
        return ir.passes.PassResult(model, modified)
