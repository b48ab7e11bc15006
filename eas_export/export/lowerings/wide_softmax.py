"""Compute Attention's softmax in float32, as PyTorch does.

    Attention(q, k, v)   ->   Attention(q, k, v, softmax_precision = FLOAT)

By default the precision is that of q, and each runtime interprets that differently; expanded to older operators it would be float16,
sums included.
"""

import onnx_ir as ir


class WideSoftmax(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        attentions = [node for node in model.graph if node.op_type == "Attention"]
        for node in attentions:
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(ir.DataType.FLOAT))
        return ir.passes.PassResult(model, bool(attentions))
