"""ONNX Runtime on the CPU.

All sessions share one mapped copy of the store's weights, and nothing is repacked: loading takes no memory. Inputs and outputs are bound
to torch's memory, so caches are updated in place.

This applies to float32. float16 weights are widened when a session opens, a private copy for each; bfloat16 weights in each run
(widen.py). `open_low_memory` opens a session for one block at a time instead.
"""

import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto

from ...bundle.bundle import Bundle
from ...core.errors import UserError
from ...core.graph_spec import GraphSpec
from ...core.precision import DTYPES, PRECISIONS
from ...core.registry import deferred
from ...system.machine import free_memory
from ...system.memory import enough_memory
from ...system.packages import install_command
from ..contract import Backend, Health
from ..runtime import Runtime, Tensors
from .split import Part, split
from .widen import NARROW, widen_model, widen_spec

# Set before the import: otherwise it sends telemetry, and stores an id and a database in the user's cache (1.32)
SILENT = {"ORT_DISABLE_TELEMETRY": "1"}
ARENA = 1.15  # a session's arena, relative to the memory requested from it (benchmarks/loading.py: 1.12)
MAPPED = ("float32",)  # dtypes that the CPU computes with directly from the store


class OnnxRuntimeSession:
    """A whole graph, always open."""

    def __init__(self, ort: ModuleType, spec: GraphSpec, path: Path, folder: Path, values: dict):
        self.spec = spec
        self.session, self._weights = _open(ort, path, folder, _read(ort, path), values)

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        for inputs, outputs in requests:
            self.bind(inputs, outputs)()

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        binding = self.session.io_binding()
        with _translated(self.spec.name):
            for name, tensor in inputs.items():
                _bind(binding.bind_input, name, tensor)
            for name, tensor in outputs.items():
                _bind(binding.bind_output, name, tensor)

        def run(held: object = (inputs, outputs)) -> None:
            """`held` keeps the tensors alive: the binding has their addresses only."""
            with _translated(self.spec.name):
                self.session.run_with_iobinding(binding)

        return run


class PartedSession:
    """A graph in parts; each is opened, run for all requests, and closed."""

    def __init__(self, ort: ModuleType, spec: GraphSpec, path: Path, folder: Path, values: dict):
        self.spec = spec
        self._ort, self._path, self._folder, self._values = ort, path, folder, values
        with _refused(ort, path):
            self._parts = split(_read(ort, path))

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        carried: list[Tensors] = [{} for _ in requests]
        for part in self._parts:
            session, weights = _open(self._ort, self._path, self._folder, part.model, self._values)
            with _translated(self.spec.name):
                for (inputs, outputs), values in zip(requests, carried):
                    self._run_part(session, part, inputs, outputs, values)
            del session, weights

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        return lambda: self.run([(inputs, outputs)])

    @staticmethod
    def _run_part(session, part: Part, inputs: Tensors, outputs: Tensors, values: Tensors) -> None:
        """values: results of earlier parts; later parts may also read the graph's outputs"""
        binding, known = session.io_binding(), inputs | outputs | values
        for name in part.inputs:
            _bind(binding.bind_input, name, known[name])
        for name in part.outputs:
            if name in outputs:
                _bind(binding.bind_output, name, outputs[name])
            else:
                binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        results = zip(part.outputs, binding.get_outputs())  # copied: each would keep the whole session in memory
        values.update({name: torch.from_numpy(v.numpy().copy()) for name, v in results if name not in outputs})
        for name in [name for name in values if name not in part.needed]:
            del values[name]


def _bind(bind, name: str, tensor) -> None:
    dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
    bind(name, "cpu", 0, dtype, tuple(tensor.shape), tensor.data_ptr())


@contextmanager
def _translated(graph: str) -> Iterator[None]:
    try:
        with enough_memory(f"graph {graph}", "end other programs, or lower --max-prompt and --max-batch"):
            yield
    except UserError:
        raise
    except Exception as error:  # the bindings' exception classes have no other common base
        what = f"ONNX Runtime failed to run the graph ({' '.join(str(error).split())[:200]})"
        fix = "eas-export verify tells whether the bundle is damaged"
        raise UserError(what, where=f"graph {graph}", fix=fix) from error


def open_bundle(bundle: Bundle) -> Runtime:
    """Open a session for every graph. Raises UserError if ONNX Runtime is missing or rejects a graph, and if widened weights do not fit
    into memory."""
    m = bundle.manifest
    needed, free = private_bytes(bundle), free_memory()
    if needed > free:
        what = f"ONNX Runtime widens {m.precision} weights on a CPU, a copy per graph: {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free"
        fix = "build with --precision fp32, which stays mapped and is shared, or use a machine with more memory"
        raise UserError(what, where=bundle.path, fix=fix)
    return Runtime(_name(m.precision), m.config, m.plan, m.limits, open_sessions(bundle, m.graphs))


def _name(precision: str) -> str:
    """The backend's name in reports, which states the dtype if it is not the bundle's own."""
    widened = PRECISIONS[precision].dtype == NARROW
    return f"onnxruntime, {precision} computed in float32" if widened else "onnxruntime"


def private_bytes(bundle: Bundle) -> int:
    """The bytes of memory that weights take beside the mapped store: 0 if the CPU computes with the store's dtype."""
    if PRECISIONS[bundle.manifest.precision].dtype in MAPPED:
        return 0
    ort, entries = import_onnxruntime(), bundle.store.entries
    graphs = [_read(ort, bundle.graph_file(name)).graph for name in bundle.manifest.graphs]
    numbers = sum(prod(entries[i.name].shape) for graph in graphs for i in graph.initializer if i.name in entries)
    return round(ARENA * 4 * numbers)


def open_sessions(bundle: Bundle, graphs: Mapping[str, GraphSpec]) -> dict[str, OnnxRuntimeSession]:
    """Sessions for these graphs in the bundle's folder, sharing one mapped copy of its weights."""
    return _sessions(OnnxRuntimeSession, bundle, graphs)


def open_low_memory(bundle: Bundle) -> Runtime:
    """Whole sessions if the weights stay mapped; one part at a time if they would be widened."""
    m = bundle.manifest
    mapped = PRECISIONS[m.precision].dtype in MAPPED
    sessions = _sessions(OnnxRuntimeSession if mapped else PartedSession, bundle, m.graphs)
    return Runtime(_name(m.precision), m.config, m.plan, m.limits, sessions, stays_open=mapped)


def _sessions(kind: type, bundle: Bundle, graphs: Mapping[str, GraphSpec]) -> dict[str, Any]:
    ort = import_onnxruntime()
    values = _mapped_values(ort, bundle)
    specs = {name: widen_spec(spec) for name, spec in graphs.items()}
    return {name: kind(ort, spec, bundle.graph_file(name), bundle.path, values) for name, spec in specs.items()}


def import_onnxruntime() -> ModuleType:
    """Import the library with telemetry disabled. Raises UserError if it cannot be imported."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    try:
        import onnxruntime
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        what = f"ONNX Runtime cannot be imported ({' '.join(str(error).split())[:200]})"
        fix = _install("" if missing else "--force-reinstall")
        raise UserError(what, where="--backend onnxruntime", fix=fix) from None
    return onnxruntime


def _install(option: str) -> str:
    """The command that installs whichever of ONNX Runtime's distributions is installed; each overwrites the other's files."""
    on_gpu = any(importlib.metadata.distributions(name="onnxruntime-gpu"))
    return install_command("gpu", "onnxruntime-gpu", option=option) if on_gpu else install_command("cpu", option=option)


def _mapped_values(ort: ModuleType, bundle: Bundle) -> dict:
    """Every tensor of the store as an OrtValue over the mapped file."""
    values = {}
    for entry in bundle.store.entries.values():
        array = bundle.store.array(entry.name)
        values[entry.name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, DTYPES[entry.dtype].onnx)
    return values


def _read(ort: ModuleType, path: Path) -> ModelProto:
    with _refused(ort, path):
        return widen_model(onnx.load(path, load_external_data=False))


def _open(ort: ModuleType, path: Path, folder: Path, model: ModelProto, values: dict) -> tuple[Any, dict]:
    """A session for a graph whose weights are in `folder`, and the values whose memory it uses."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = os.cpu_count() or 1
    # Threads spin only while a graph runs: sessions in one process must not compete for cores. Weights are not repacked, which would
    # be a private copy of each
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    with _refused(ort, path):
        shapes = {i.name: list(i.dims) for i in model.graph.initializer if i.external_data}
        used = {name: values[name] for name, shape in shapes.items() if values[name].shape() == shape}
        for name, value in used.items():
            options.add_initializer(name, value)
        session = ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"],
        )
    return session, used


@contextmanager
def _refused(ort: ModuleType, path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the bindings' and protobuf's exception classes have no other common base
        what = f"ONNX Runtime {ort.__version__} rejects the graph ({' '.join(str(error).split())[:200]})"
        fix = f"eas-export verify tells whether the file is damaged; else {_install('-U')}"
        raise UserError(what, where=path, fix=fix) from error


def health() -> Health:
    try:
        ort = import_onnxruntime()
    except UserError as error:
        return Health(version=None, runs=False, status=f"not usable: {error.what}", fix=error.fix)
    status = (
        "runs bundles on the CPU; fp32 weights are mapped and shared, fp16 weights widened, a private copy per graph"
    )
    return Health(version=ort.__version__, runs=True, status=status)


ONNXRUNTIME = Backend(
    open=open_bundle,
    open_low_memory=open_low_memory,
    private_bytes=private_bytes,
    health=health,
    open_instrumented=open_low_memory,
    open_on=deferred(".backends.onnxruntime.cuda:open_on_device"),
)
