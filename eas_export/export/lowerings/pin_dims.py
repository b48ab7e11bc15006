"""Write numbers in the place of named sizes, for consumers that want them static."""

from collections.abc import Mapping

import onnx_ir as ir


class PinDims(ir.passes.InPlacePass):
    """Every value's dimension that is named in `sizes` becomes its number. Sizes made of a name and more ("T + 1") stay."""

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
