"""The runtimes that benchmarks/gpu.py measures beside the package's own: PyTorch and ONNX Runtime on a device.

PyTorch   the traced modules, run eagerly; or captured: all kernels of a decode step as one CUDA graph, without the time that the host
          takes to launch them one by one. The modules are the reference as it is written: attention is no fused kernel.
ONNX Runtime  the bundle's files as they are; every session has a copy of its weights on a GPU. What its CUDA kernels do not cover is
          left to the CPU, and `on_cpu` says so in ONNX Runtime's words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from floor import FLOOR

from eas_export.backends.pytorch import PyTorchSession, open_network
from eas_export.backends.runtime import Runtime, Tensors
from eas_export.bundle import Bundle
from eas_export.errors import UserError
from eas_export.export.graphs import DECODER, Graph
from eas_export.graph import GraphSpec
from eas_export.precision import PRECISIONS


class Refused(UserError):
    """ONNX Runtime cannot run a graph."""


class CapturedSession(PyTorchSession):
    """Bound steps are captured the first time, and replayed from the second time on."""

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        for inputs, outputs in requests:
            super().bind(inputs, outputs)()

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        eager, captured = super().bind(inputs, outputs), []

        def run() -> None:
            if captured:
                captured[0].replay()
                return
            eager()  # what libraries allocate on their first call is allocated outside of the graph
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                eager()
            captured.append(graph)

        return run


def open_pytorch(bundle: Bundle, device: torch.device) -> Runtime:
    """The bundle's weights on the device, adapters beside them."""
    m = bundle.manifest
    readers = {name: lambda name=name: bundle.store.tensor(name) for name in bundle.store.entries}
    return open_network(m.config, m.plan, PRECISIONS[m.precision], m.limits, "lowrank", readers, device)


def with_graphs(runtime: Runtime, graphs: Mapping[str, Graph], precision: str, kind: type = PyTorchSession) -> Runtime:
    """Other graphs over the very weights of a PyTorch runtime."""
    network, limits = runtime.sessions["prefill"].module.network, runtime.limits
    if "fold" in graphs:
        limits = limits.model_copy(update={"max_batch": 1})
    sessions = {
        name: kind(graph.module(network), graph.spec(runtime.config, runtime.plan, PRECISIONS[precision], limits))
        for name, graph in graphs.items()
    }
    return replace(runtime, sessions=sessions, limits=limits)


# what a PyTorch mode runs; the floor is the decode step without adapters, no model that anybody would run
PYTORCH_GRAPHS = {**DECODER, "floor": {"decode": FLOOR}, "unskipped": DECODER["lowrank"]}


class OrtSession:
    """A graph in ONNX Runtime, its tensors bound where torch has them. An aliased output is bound to its input's address."""

    def __init__(self, ort: ModuleType, spec: GraphSpec, path: Path, device: torch.device):
        self.spec, self.device = spec, device
        self.session, self.on_cpu = _open(ort, path, device)

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        for inputs, outputs in requests:
            self.bind(inputs, outputs)()

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        binding = self.session.io_binding()
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
                bind(name, self.device.type, self.device.index or 0, dtype, tuple(tensor.shape), tensor.data_ptr())

        def run() -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # it has a stream of its own, and has come to its end when it returns
            try:
                self.session.run_with_iobinding(binding)
            except Exception as error:  # the bindings' exception classes have no common base but this
                raise _refused(error, f"graph {self.spec.name}") from error

        return run


def open_onnxruntime(bundle: Bundle, device: torch.device) -> Runtime:
    """Raises Refused where it cannot open a graph on the device."""
    m, ort = bundle.manifest, import_onnxruntime(device)
    sessions = {name: OrtSession(ort, spec, bundle.graph_file(name), device) for name, spec in m.graphs.items()}
    return Runtime("onnxruntime", m.config, m.plan, m.limits, sessions, device)


def import_onnxruntime(device: torch.device) -> ModuleType:
    """The module. Raises Refused where it is missing, or runs nothing on the device."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Refused(str(error), where="import onnxruntime", fix="pip install onnxruntime-gpu") from None
    known = onnxruntime.get_available_providers()
    if _provider(device) not in known:
        what = f"ONNX Runtime {onnxruntime.__version__} has no {_provider(device)} here, only {', '.join(known)}"
        raise Refused(what, where="onnxruntime", fix="pip install onnxruntime-gpu, for this CUDA version")
    return onnxruntime


def _open(ort: ModuleType, path: Path, device: torch.device) -> tuple[Any, str | None]:
    """A session, and what ONNX Runtime says where not all of the graph is on the device."""
    provider = _provider(device)
    if device.type == "cpu":
        return _session(ort, path, provider, {}, {}), None
    getattr(ort, "preload_dlls", lambda: None)()  # CUDA's libraries, from where torch has them
    exact = {"arena_extend_strategy": "kSameAsRequested"}  # else it asks for powers of two
    try:
        return _session(ort, path, provider, exact, {"session.disable_cpu_ep_fallback": "1"}), None
    except Refused as refusal:
        return _session(ort, path, provider, exact, {}), refusal.what


def _session(ort: ModuleType, path: Path, provider: str, settings: dict, entries: dict[str, str]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in ({"session.intra_op.allow_spinning": "0"} | entries).items():
        options.add_session_config_entry(key, value)
    try:
        session = ort.InferenceSession(str(path), options, providers=[(provider, settings)])
    except Exception as error:  # the bindings' exception classes have no common base but this
        raise _refused(error, path.name) from error
    if session.get_providers()[0] != provider:
        what = f"ONNX Runtime {ort.__version__} opened it on {session.get_providers()[0]}, not on {provider}"
        raise Refused(what, where=path.name, fix="install the CUDA libraries that onnxruntime-gpu needs")
    return session


def _refused(error: Exception, where: str) -> Refused:
    said = " ".join(str(error).split())
    return Refused(f"ONNX Runtime refuses it ({said})", where=where, fix="try another version of onnxruntime-gpu")


def _provider(device: torch.device) -> str:
    return {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[device.type]
