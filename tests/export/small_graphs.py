"""Graphs of one function, recorded and run on ONNX Runtime."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from torch import Tensor, nn

from eas_export.core.graph_spec import Dim, GraphSpec, TensorSpec
from eas_export.export.recorder import record

Shape = Sequence[int | str]


class Small(nn.Module):
    """A graph module of one function of tensors, whose network is a module."""

    def __init__(self, function: Callable[..., Tensor], network: nn.Module):
        super().__init__()
        self.function, self.network = function, network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": self.function(*inputs.values())}


def f32(*shape: int | str) -> tuple[str, Shape]:
    return "float32", shape


def f16(*shape: int | str) -> tuple[str, Shape]:
    return "float16", shape


def i64(*shape: int | str) -> tuple[str, Shape]:
    return "int64", shape


def record_function(
    function: Callable[..., Tensor],
    inputs: Sequence[tuple[str, Shape]],
    y: tuple[str, Shape],
    network: nn.Module | None = None,
) -> ir.Model:
    """The function of inputs a, b, .. -> y, as a graph. Its network: modules on the meta device that it calls."""
    tensors = [TensorSpec(name=n, dtype=dtype, shape=shape) for n, (dtype, shape) in zip("abcdefg", inputs)]
    named = sorted({size for tensor in tensors for size in tensor.shape if isinstance(size, str)})
    free = Dim(min=1, opt=2, max=8, limit="max-batch")
    outputs = [TensorSpec(name="y", dtype=y[0], shape=y[1])]
    spec = GraphSpec(name="small", dims=dict.fromkeys(named, free), inputs=tensors, outputs=outputs)
    return record(Small(function, network or nn.Module()), spec)


def run(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    used = {each.name for each in session.get_inputs()}
    return session.run(["y"], {name: array for name, array in inputs.items() if name in used})[0]
