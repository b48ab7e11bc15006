"""A graph module and its GraphSpec -> an ONNX model without weights. Nothing is allocated: the network is a skeleton."""

import logging
import warnings
from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import InternalError
from ..graph import GraphSpec, TensorSpec
from ..model.network import store_name
from ..precision import DTYPES
from ..recipe import DEFAULT_OPSET

# Example sizes of the named dims, all different and above 1: torch.export specialises 0 and 1, and takes equal sizes for one
EXAMPLE_SIZES = {"B": 2, "S": 5, "T": 11, "M": 3, "N": 7}


def trace(make_module: Callable[[], nn.Module], spec: GraphSpec) -> ir.Model:
    """The module that `make_module` builds as ONNX, its inputs and outputs named and shaped as the spec says, its initializers
    named as in the store and without values. Raises InternalError where the module does not keep to the spec."""
    free = {name: torch.export.Dim(name, min=1, max=1 << 30) for name in spec.dims}
    shapes = {
        t.name: {axis: free[size] for axis, size in enumerate(t.shape) if isinstance(size, str)} for t in spec.inputs
    }
    with _quiet(), torch.no_grad(), FakeTensorMode():
        module = make_module()
        example = {tensor.name: _example(tensor) for tensor in spec.inputs}
        program = torch.export.export(module, (example,), dynamic_shapes={"inputs": shapes})
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=DEFAULT_OPSET,
            optimize=False,
            verbose=False,
            input_names=[t.name for t in spec.inputs],
            output_names=[t.name for t in spec.outputs],
            dynamic_shapes={"inputs": shapes},
        )
    model = exported.model
    model.graph.name = spec.name
    model.producer_name, model.producer_version = "eas-export", None
    _name_initializers(model)
    _check(model, spec)
    return model


def _example(tensor: TensorSpec) -> Tensor:
    return torch.empty(tensor.sizes(EXAMPLE_SIZES), dtype=getattr(torch, tensor.dtype))


def _name_initializers(model: ir.Model) -> None:
    """From the graph module's parameter names ("network.decoder.norm.weight") to the store's ("norm.weight")."""
    for name, value in list(model.graph.initializers.items()):
        if name.startswith("network."):
            model.graph.initializers.pop(name)
            value.name, value.const_value = store_name(name.removeprefix("network.")), None
            model.graph.initializers[value.name] = value


def _check(model: ir.Model, spec: GraphSpec) -> None:
    for values, tensors in ((model.graph.inputs, spec.inputs), (model.graph.outputs, spec.outputs)):
        if [v.name for v in values] != [t.name for t in tensors]:
            raise InternalError(
                f"graph {spec.name} has {[v.name for v in values]}, its spec {[t.name for t in tensors]}"
            )
        for value, tensor in zip(values, tensors):
            shape = tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)
            if shape != tensor.shape or value.dtype != ir.DataType(DTYPES[tensor.dtype].onnx):
                raise InternalError(f"graph {spec.name}: {value.name} is {value.dtype} {shape}, its spec says {tensor}")


class _quiet(warnings.catch_warnings):
    """Without the exporter's own warnings and log lines."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("ignore")
        self.level = logging.getLogger("torch").level
        logging.getLogger("torch").setLevel(logging.ERROR)

    def __exit__(self, *exc):
        logging.getLogger("torch").setLevel(self.level)
        super().__exit__(*exc)
