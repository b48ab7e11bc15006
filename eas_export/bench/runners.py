"""What runs a bundle, in a child process: (its folder, workload) -> it, open. Raises UserError where it cannot be had."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..backends import for_bundles
from ..backends.onnxruntime.cuda import open_on_device
from ..backends.opening import open_runtime, require_own_graphs_and_weights
from ..backends.pytorch import PyTorchSession
from ..backends.pytorch import open_bundle as open_in_pytorch
from ..backends.runtime import Runtime, Tensors
from ..bundle.bundle import open_bundle
from ..core.errors import UserError
from ..core.precision import PRECISIONS
from .genai import genai_parts
from .peak import product_probes, read_probes
from .published import open_published
from .settings import Workload
from .stages import DECODE, ENCODE, PRODUCT, READ, Opened, Part, parts_of, synchronised

GENAI_NOTE = "its prefill makes logits for every position and chooses a token; its steps go from the prompt's end to the answer's"


def onnxruntime(place: Path, workload: Workload) -> Opened:
    """On the CPU as everywhere in this package; on a GPU with its CUDA kernels."""
    bundle = open_bundle(place)
    if workload.device == "cpu":
        return _opened(open_runtime(bundle, "onnxruntime"), workload)
    require_own_graphs_and_weights(bundle)
    runtime = open_on_device(bundle, _device(workload))
    left = {name: session.on_cpu for name, session in runtime.sessions.items() if session.on_cpu}
    notes = tuple(f"{name} is not all on the GPU: {said}" for name, said in left.items())
    return Opened(parts_of(runtime, workload), notes)


def pytorch(place: Path, workload: Workload) -> Opened:
    """The recorded modules, eagerly."""
    return _opened(_in_pytorch(place, workload), workload)


def published(place: Path, workload: Workload) -> Opened:
    return _opened(open_published(open_bundle(place), _device(workload)), workload)


def compiled(place: Path, workload: Workload) -> Opened:
    """Steps of one row alone: compiling takes minutes, and again for every shape."""
    return _steps(place, workload, CompiledSession, (1,))


def captured(place: Path, workload: Workload) -> Opened:
    """Steps alone, each replayed as one CUDA graph: without the time that the host takes to launch its kernels one by one."""
    if workload.device != "cuda":
        what = "CUDA graphs are captured on a GPU"
        raise UserError(what, where="--device cpu", fix="use --device cuda, or leave it out")
    return _steps(place, workload, CapturedSession, workload.batches)


def on_backend(backend: str, place: Path, workload: Workload) -> Opened:
    """The bundle's own files on a backend, which may not be there for the device."""
    runtime = open_runtime(open_bundle(place), backend)
    if runtime.device.type != workload.device:
        what = f"{backend} runs on the {runtime.device.type.upper()}"
        raise UserError(what, where=f"--device {workload.device}", fix=f"pass --device {runtime.device.type}")
    return _opened(runtime, workload)


def genai(place: Path, workload: Workload) -> Opened:
    return Opened(genai_parts(place, workload), (GENAI_NOTE,))


def machine(place: Path, workload: Workload) -> Opened:
    """What the machine can do: the probes of peak.py, in the bundle's dtype."""
    device, dtype = _device(workload), PRECISIONS[open_bundle(place).manifest.precision].dtype
    found = [(READ, probe) for probe in read_probes(device)]
    found += [(PRODUCT, probe) for probe in product_probes(device, dtype)]
    parts = {
        f"{kind}{probe.name}": Part(lambda run=probe.run: synchronised(run, device), probe.amount)
        for kind, probe in found
    }
    return Opened(parts)


class CompiledSession(PyTorchSession):
    """The same module through torch.compile."""

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        module = torch.compile(self.module, dynamic=False)

        @torch.no_grad()
        def run() -> None:
            try:
                for name, value in module(dict(inputs)).items():
                    outputs[name].copy_(value)
            except Exception as error:  # its own and its compiler's have no common base but this
                what = f"torch.compile fails on it ({' '.join(str(error).split())[:200]})"
                raise UserError(what, where="torch.compile", fix="install a C++ compiler, or leave it out") from error

        return run


class CapturedSession(PyTorchSession):
    """The same module, whose kernels are captured as a CUDA graph on the first call and replayed from the second one on."""

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        eager, replays = super().bind(inputs, outputs), []

        def run() -> None:
            if replays:
                return replays[0]()
            eager()  # what libraries allocate on their first call is allocated outside of the graph
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                eager()
            replays.append(graph.replay)

        return run


def _steps(place: Path, workload: Workload, kind: type[PyTorchSession], batches: Sequence[int]) -> Opened:
    """Steps of so many rows, on a session of this kind."""
    runtime = _in_pytorch(place, workload)
    name = next(name for name in ("decode", "encode") if name in runtime.sessions)
    session = runtime.sessions[name]
    sessions = {**runtime.sessions, name: kind(session.module, session.spec)}
    parts = parts_of(replace(runtime, sessions=sessions), workload)
    kept = [step.format(rows) for step in (DECODE, ENCODE) for rows in batches]
    return Opened({name: part for name, part in parts.items() if name in kept})


def _opened(runtime: Runtime, workload: Workload) -> Opened:
    return Opened(parts_of(runtime, workload))


def _in_pytorch(place: Path, workload: Workload) -> Runtime:
    bundle = open_bundle(place)
    require_own_graphs_and_weights(bundle)
    return open_in_pytorch(bundle, _device(workload))


def _device(workload: Workload) -> torch.device:
    return torch.device("cuda", 0) if workload.device == "cuda" else torch.device("cpu")


RUNNERS: Mapping[str, Callable[[Path, Workload], Opened]] = {
    **{backend: partial(on_backend, backend) for backend in for_bundles()},
    "onnxruntime": onnxruntime,
    "pytorch": pytorch,
    "published": published,
    "compiled": compiled,
    "captured": captured,
    "genai": genai,
    "machine": machine,
}
