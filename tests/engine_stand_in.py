"""What stands in for a GPU in tests of sessions: an engine whose graph ONNX Runtime runs, on the addresses that a context is given.

Engines cannot be run without a GPU. All that is ours around them can: which addresses, shapes and weights a context is given and when,
and what the rewritten graphs compute. Names and signatures are TensorRT's; tests/backends/test_trt_names.py holds ours to the real ones.
"""

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import torch

from eas_export.backends.runtime import Runtime
from eas_export.backends.tensorrt.engine_graph import engine_spec, rewrite
from eas_export.backends.tensorrt.flavor import Flavor, get_flavor
from eas_export.backends.tensorrt.session import EngineSession, device_weights
from eas_export.bundle.bundle import Bundle
from eas_export.core.graph_spec import GraphSpec


class trt:
    """The part of the module that sessions use."""

    class TensorIOMode(Enum):
        INPUT, OUTPUT = "input", "output"

    class ILogger:
        class Severity(Enum):
            INTERNAL_ERROR, ERROR = "internal error", "error"


class Engine:
    """A rewritten graph."""

    def __init__(self, model: ir.Model, spec: GraphSpec, folder: Path):
        proto = ir.to_proto(model)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self.session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        self.types = {
            value.name: value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)
        }
        self.inputs = [value.name for value in proto.graph.input]
        self.names = [*self.inputs, *(value.name for value in proto.graph.output)]
        self.aliases, self.contexts = spec.aliases, []

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> trt.TensorIOMode:
        return trt.TensorIOMode.INPUT if name in self.inputs else trt.TensorIOMode.OUTPUT

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return self.aliases.get(name)

    def create_execution_context(self) -> "Context":
        self.contexts.append(Context(self))
        return self.contexts[-1]


class Context:
    """Runs its engine's graph on raw addresses; `told` counts the calls by name."""

    def __init__(self, engine: Engine):
        self.engine, self.addresses, self.shapes = engine, {}, {}
        self.told = {"set_input_shape": 0, "set_tensor_address": 0, "execute_async_v3": 0}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.told["set_input_shape"] += 1
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.told["set_tensor_address"] += 1
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.told["execute_async_v3"] += 1
        binding = self.engine.session.io_binding()
        fixed = {i.name: i.shape for i in self.engine.session.get_inputs()}
        shapes = fixed | self.shapes
        for name in self.engine.names:
            given = name in self.engine.inputs
            address = self.addresses[name]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(self.engine.types[name])
            if given:
                binding.bind_input(name, "cpu", 0, dtype, shapes[name], address)
            else:
                binding.bind_output(name, "cpu", 0, dtype, self._output_shape(name, shapes), address)
        self.engine.session.run_with_iobinding(binding)
        return True

    def _output_shape(self, name: str, shapes: dict) -> list[int]:
        """The file's shape, its named sizes read off the inputs."""
        sizes = {}
        for value in self.engine.session.get_inputs():
            sizes |= {size: got for size, got in zip(value.shape, shapes[value.name]) if isinstance(size, str)}
        shape = next(value.shape for value in self.engine.session.get_outputs() if value.name == name)
        return [sizes.get(size, size) for size in shape]


@dataclass(frozen=True)
class StandIn:
    """runtime: over the engines, as open_engines makes one on a GPU"""

    runtime: Runtime
    engines: dict[str, Engine]


def open_stand_in(bundle: Bundle, weights: str = "bound", backend: str = "tensorrt") -> StandIn:
    """A bundle's graphs as `open_engines` opens them, on the CPU."""
    m = bundle.manifest
    flavor: Flavor = replace(
        get_flavor(backend), make_context=lambda trt, engine, stays: engine.create_execution_context()
    )
    engines = {
        n: Engine(rewrite(bundle.graph_file(n), s, bundle.store, weights), s, bundle.path) for n, s in m.graphs.items()
    }
    held = device_weights(bundle, engines.values(), torch.device("cpu"))
    sessions = {n: EngineSession(trt, flavor, e, engine_spec(m.graphs[n]), held) for n, e in engines.items()}
    return StandIn(Runtime("stand-in", m.config, m.plan, m.limits, sessions), engines)
