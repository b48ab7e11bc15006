"""ONNX Runtime on the CPU.

Weights are passed in as values over one mapped copy of the store, shared by all sessions, and nothing is repacked: loading
costs no memory. Inputs and outputs are bound to torch's memory, so caches are updated in place.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir

from ..bundle import Bundle
from ..errors import UserError
from ..graph import GraphSpec
from ..health import Health
from ..precision import DTYPES
from .backend import Backend
from .runtime import Runtime, Tensors


class OnnxRuntimeSession:
    def __init__(self, session, spec: GraphSpec, weights: dict):
        self.session, self.spec = session, spec
        self._weights = weights  # the session reads their memory
        self._dtypes = {t.name: np.dtype(t.dtype) for t in (*spec.inputs, *spec.outputs)}

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        try:
            binding = self.session.io_binding()
            for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
                for name, tensor in tensors.items():
                    bind(name, "cpu", 0, self._dtypes[name], tuple(tensor.shape), tensor.data_ptr())
            self.session.run_with_iobinding(binding)
        except Exception as error:  # the bindings' exception classes have no common base but this
            raise UserError(
                f"ONNX Runtime failed in it ({' '.join(str(error).split())[:200]})",
                where=f"graph {self.spec.name}",
                fix="eas-export verify tells whether the bundle is damaged",
            ) from error


def open_bundle(bundle: Bundle) -> Runtime:
    """Sessions for every graph. Raises UserError without ONNX Runtime, or where it refuses a graph."""
    m = bundle.manifest
    return Runtime("onnxruntime", m.config, m.plan, m.limits, open_sessions(bundle, m.graphs))


def open_sessions(bundle: Bundle, graphs: Mapping[str, GraphSpec]) -> dict[str, OnnxRuntimeSession]:
    """Sessions for these graphs of the bundle's folder, over one mapped copy of its weights."""
    ort = _import_onnxruntime()
    values = _mapped_values(ort, bundle)
    return {name: _open_session(ort, bundle, spec, values) for name, spec in graphs.items()}


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        raise UserError(
            f"ONNX Runtime cannot be imported ({' '.join(str(error).split())[:200]})",
            where="--backend onnxruntime",
            fix="pip install 'eas-export[cpu]'" if missing else "pip install --force-reinstall onnxruntime",
        ) from None
    return onnxruntime


def _mapped_values(ort: ModuleType, bundle: Bundle) -> dict:
    """Every tensor of the store as a value over the mapped file."""
    values = {}
    for entry in bundle.store.entries.values():
        view = np.frombuffer(bundle.store.view(entry.name), np.dtype(entry.dtype)).reshape(entry.shape)
        values[entry.name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(view, DTYPES[entry.dtype].onnx)
    return values


def _open_session(ort: ModuleType, bundle: Bundle, spec: GraphSpec, values: dict) -> OnnxRuntimeSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = os.cpu_count() or 1
    # Sessions in one process must not fight for the cores, nor repack weights: that is a private copy of each
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "1")
    path = bundle.graph_file(spec.name)
    try:
        used = {name: values[name] for name, shape in _external_shapes(path).items() if values[name].shape() == shape}
        for name, value in used.items():
            options.add_initializer(name, value)
        session = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
        )
    except Exception as error:  # the bindings' and protobuf's exception classes have no common base but this
        raise UserError(
            f"ONNX Runtime {ort.__version__} refuses it ({' '.join(str(error).split())[:200]})",
            where=path,
            fix="eas-export verify tells whether the file is damaged; else pip install -U onnxruntime (1.31 or newer)",
        ) from error
    return OnnxRuntimeSession(session, spec, used)


def _external_shapes(path: Path) -> dict[str, list[int]]:
    """Name -> shape of the initializers that lie in the store."""
    initializers = ir.load(path).graph.initializers.items()
    return {name: list(v.const_value.shape) for name, v in initializers if isinstance(v.const_value, ir.ExternalTensor)}


def health() -> Health:
    try:
        ort = _import_onnxruntime()
    except UserError as error:
        return Health(version=None, does=f"nothing: {error.what}", fix=error.fix)
    does = (
        "runs bundles on the CPU, weights mapped and shared in fp32; fp16 weights are widened, a private copy per graph"
    )
    return Health(version=ort.__version__, does=does)


ONNXRUNTIME = Backend(open_bundle, health)
