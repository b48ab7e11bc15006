"""Have Attention take its softmax in float32, as its PyTorch twin does.

    Attention(q, k, v)   ->   Attention(q, k, v, softmax_precision = FLOAT)

Without it the precision is q's own, and what runs an Attention decides what that means; written down as older operators it would be
float16, sums included.
"""

import onnx_ir as ir


class WideSoftmax(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        attentions = [node for node in model.graph if node.op_type == "Attention"]
        for node in attentions:
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(ir.DataType.FLOAT))
        return ir.passes.PassResult(model, bool(attentions))
