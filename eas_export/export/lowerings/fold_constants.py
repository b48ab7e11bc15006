"""Compute what depends on constants only: the shape arithmetic of function bodies."""

import onnx_ir as ir


class FoldConstants(ir.passes.InPlacePass):
    """Fold constant expressions; nodes that read an initializer (a weight, which has no value yet) stay.

    infer  infer missing shapes, which makes more expressions constant
    """

    def __init__(self, infer: bool = False):
        super().__init__()
        self.infer = infer

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        from onnxscript.optimizer import fold_constants  # imported late: most graphs do not need it

        weights = frozenset(model.graph.initializers)

        def should_fold(node: ir.Node) -> bool | None:
            return False if any(value is not None and value.name in weights for value in node.inputs) else None

        result = fold_constants(model, onnx_shape_inference=self.infer, should_fold=should_fold)
        return ir.passes.PassResult(model, result.modified)
