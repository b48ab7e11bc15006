"""ONNX Runtime on a device, usually a GPU with CUDA: runs the bundle's files unchanged; each session has its own copy of the weights there.

Nodes without a CUDA kernel run on the CPU; a session's `on_cpu` then has ONNX Runtime's message.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ...bundle.bundle import Bundle
from ...core.errors import UserError
from ...core.graph_spec import GraphSpec
from ...core.precision import DTYPES
from ...system.packages import install_command
from ..runtime import Runtime, Tensors
from .cpu import import_onnxruntime


class Refused(UserError):
    """ONNX Runtime rejects a graph."""


class OrtSession:
    """A graph in ONNX Runtime, bound to torch's memory. An aliased output is bound to its input's address."""

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
                kind = int(DTYPES[str(tensor.dtype).removeprefix("torch.")].onnx)  # numpy has no bfloat16
                bind(name, self.device.type, self.device.index or 0, kind, tuple(tensor.shape), tensor.data_ptr())

        def run(held: object = (inputs, outputs)) -> None:
            """`held` keeps the tensors alive: the binding has their addresses only."""
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # ONNX Runtime has a stream of its own, and synchronizes it before it returns
            try:
                self.session.run_with_iobinding(binding)
            except Exception as error:  # the bindings' exception classes have no other common base
                raise _refused(error, f"graph {self.spec.name}") from error

        return run


def open_on_device(bundle: Bundle, device: torch.device) -> Runtime:
    """Open a session on the device for every graph. Raises Refused where ONNX Runtime cannot."""
    m, ort = bundle.manifest, import_for(device)
    sessions = {name: OrtSession(ort, spec, bundle.graph_file(name), device) for name, spec in m.graphs.items()}
    return Runtime("onnxruntime", m.config, m.plan, m.limits, sessions, device)


def import_for(device: torch.device) -> ModuleType:
    """Import the library. Raises UserError if it is missing, Refused if it does not support the device."""
    onnxruntime = import_onnxruntime()
    known = onnxruntime.get_available_providers()
    if _provider(device) not in known:
        what = f"ONNX Runtime {onnxruntime.__version__} has no {_provider(device)} here, only {', '.join(known)}"
        fix = f"pip uninstall -y onnxruntime onnxruntime-gpu && {install_command('gpu', 'onnxruntime-gpu')}"
        raise Refused(what, where="onnxruntime", fix=fix)
    return onnxruntime


def _open(ort: ModuleType, path: Path, device: torch.device) -> tuple[Any, str | None]:
    """A session, and ONNX Runtime's message if some of the graph is not on the device."""
    provider = _provider(device)
    if device.type == "cpu":
        return _session(ort, path, provider, {}, {}), None
    getattr(ort, "preload_dlls", lambda: None)()  # torch's copies of CUDA's libraries
    # Otherwise it allocates powers of two, and multiplies fp32 as TF32
    exact = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
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
    except Exception as error:  # the bindings' exception classes have no other common base
        raise _refused(error, path.name) from error
    if session.get_providers()[0] != provider:
        what = f"ONNX Runtime {ort.__version__} opened the graph on {session.get_providers()[0]}, not on {provider}"
        raise Refused(what, where=path.name, fix="install the CUDA libraries that onnxruntime-gpu needs")
    return session


def _refused(error: Exception, where: str) -> Refused:
    what = f"ONNX Runtime rejects the graph ({' '.join(str(error).split())})"
    return Refused(what, where=where, fix="try another version of onnxruntime-gpu")


def _provider(device: torch.device) -> str:
    return {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[device.type]
