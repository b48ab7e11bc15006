"""Move Attention's scale to its queries.

    Attention(q, k, v)   ->   Attention(q / sqrt(head_dim), k, v, scale = 1)

Attention is defined to multiply both q and k by the square root of the scale, and TensorRT's parser does just that: it would multiply
the whole cache in each step.
"""

import numpy as np
import onnx_ir as ir


class ScaleQueries(ir.passes.InPlacePass):
    """q [B, H, L, head_dim] is multiplied in its own dtype. Its head_dim must be known."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        attentions = [node for node in model.graph if node.op_type == "Attention"]
        for node in attentions:
            q = node.inputs[0]
            attribute = node.attributes.get("scale")
            scale = attribute.as_float() if attribute else float(q.shape[-1]) ** -0.5
            value = ir.tensor(np.array(scale, dtype=q.dtype.numpy()))
            constant = ir.node("Constant", [], {"value": value})
            product = ir.node("Mul", [q, constant.outputs[0]])
            constant.outputs[0].name, product.outputs[0].name = f"{q.name}_scale", f"{q.name}_scaled"
            product.outputs[0].shape, product.outputs[0].dtype = q.shape, q.dtype
            model.graph.insert_before(node, [constant, product])
            node.replace_input_with(0, product.outputs[0])
            node.attributes["scale"] = ir.AttrFloat32("scale", 1.0)
        return ir.passes.PassResult(model, bool(attentions))
