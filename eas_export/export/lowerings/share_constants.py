"""Merge equal constants.

Slice(x, a = [1]), Slice(x, b = [1])   ->   Slice(x, a) twice, a common subexpression
"""

import onnx_ir as ir


class ShareConstants(ir.passes.InPlacePass):
    """Initializers of the same type, sizes and bytes become the first of them. Weights have no value yet and stay."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        initializers = model.graph.initializers
        first: dict[tuple, ir.Value] = {}
        modified = False
        for name, value in list(initializers.items()):
            tensor = value.const_value
            if tensor is None or isinstance(tensor, ir.ExternalTensor):
                continue
            kept = first.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
            if kept is not value:
                ir.convenience.replace_all_uses_with(value, kept)
                del initializers[name]
                modified = True
        return ir.passes.PassResult(model, modified)
