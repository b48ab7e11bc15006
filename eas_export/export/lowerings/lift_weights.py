"""Turn large weights into inputs of the graph, so that the runtime binds them and several graphs share one copy."""

from collections.abc import Callable

import onnx_ir as ir


class LiftWeights(ir.passes.InPlacePass):
    """Initializers in the store of `min_bytes` or more become inputs of the same name, after the existing ones. `read` embeds the others
    in the model, which then needs no other file."""

    def __init__(self, min_bytes: int, read: Callable[[str], ir.TensorProtocol]):
        super().__init__()
        self.min_bytes, self.read = min_bytes, read

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        initializers = model.graph.initializers
        stored = {n: v.const_value for n, v in initializers.items() if isinstance(v.const_value, ir.ExternalTensor)}
        for name, tensor in stored.items():
            large = tensor.nbytes >= self.min_bytes
            initializers[name].const_value = None if large else self.read(name)
            if large:
                model.graph.inputs.append(initializers.pop(name))
        return ir.passes.PassResult(model, bool(stored))
