"""Decompose attentions whose scores are bounded, for consumers that do not know the bound: TensorRT's parser refuses it.

Attention(q, k, v, softcap = c)   ->   Softmax(c tanh(q k^T / c) + mask) v, with a softmax in float32
"""

import onnx_ir as ir

from ...core.options import DEFAULT_OPSET
from .expand_functions import ExpandFunctions


class ExpandSoftcaps(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in filter(_is_bounded, model.graph):
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(ir.DataType.FLOAT))
        return ExpandFunctions(DEFAULT_OPSET, also=_is_bounded)(model)


def _is_bounded(node: ir.Node) -> bool:
    softcap = node.attributes.get("softcap") if node.op_type == "Attention" else None
    return softcap is not None and softcap.as_float() > 0
