"""Replace named sizes by numbers, for consumers that need static shapes."""

from collections.abc import Mapping

import onnx_ir as ir


class PinDims(ir.passes.InPlacePass):
    """Every dimension that is named in `sizes` becomes its number. Expressions of a name ("T + 1") stay."""

    def __init__(self, sizes: Mapping[str, int]):
        super().__init__()
        self.sizes = sizes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
            sizes = [size if isinstance(size, int) else self.sizes.get(size.value, size) for size in value.shape or ()]
            if value.shape is not None and sizes != list(value.shape):
                value.shape = ir.Shape(sizes)
                modified = True
        return ir.passes.PassResult(model, modified)
