"""Make large weights inputs of the graph, so that who runs it brings them and several graphs can share one copy."""

import onnx_ir as ir


class LiftWeights(ir.passes.InPlacePass):
    """Initializers in the store of `min_bytes` or more become inputs under their own names, behind those that are there; the others
    are read into the model: what is left needs no other file."""

    def __init__(self, min_bytes: int):
        super().__init__()
        self.min_bytes = min_bytes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        initializers = model.graph.initializers
        stored = {n: v.const_value for n, v in initializers.items() if isinstance(v.const_value, ir.ExternalTensor)}
        large = [name for name, tensor in stored.items() if tensor.nbytes >= self.min_bytes]
        for name in large:
            value = initializers.pop(name)
            value.const_value = None
            model.graph.inputs.append(value)
        ir.external_data.load_to_model(model)
        return ir.passes.PassResult(model, True)
