"""Say that a model is of an older opset, where it is."""

import onnx
import onnx_ir as ir

from ...core.errors import InternalError


class SetOpset(ir.passes.InPlacePass):
    """Nothing is converted: every node must be of an operator that `opset` has, with attributes that it has there. Raises InternalError
    for another one. That its types are allowed there too is the checker's to say."""

    def __init__(self, opset: int):
        super().__init__()
        self.opset = opset

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in model.graph.all_nodes():
            if not onnx.defs.has(node.op_type, self.opset, node.domain):
                raise InternalError(f"graph {model.graph.name}: opset {self.opset} has no {node.op_type}")
            unknown = set(node.attributes) - set(onnx.defs.get_schema(node.op_type, self.opset, node.domain).attributes)
            if unknown:
                raise InternalError(
                    f"graph {model.graph.name}: {node.op_type} of opset {self.opset} has no {min(unknown)}"
                )
        modified = model.opset_imports[""] != self.opset
        model.opset_imports[""] = self.opset
        return ir.passes.PassResult(model, modified)
