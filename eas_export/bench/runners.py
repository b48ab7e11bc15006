"""What runs a bundle in a child process: (its folder, workload) -> Opened. Each raises UserError where it cannot run here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..backends import BACKENDS
from ..backends.opening import open_runtime
from ..backends.pytorch import PyTorchSession
from ..backends.runtime import Tensors, device_named
from ..bundle.bundle import open_bundle
from ..core.errors import UserError
from ..core.precision import PRECISIONS
from .genai import genai_parts
from .peak import product_probes, read_probes
from .published import open_published
from .settings import Workload
from .stages import DECODE, ENCODE, PRODUCT, READ, Opened, Part, parts_of, synchronized

GENAI_NOTE = "its prefill makes logits for every position and chooses a token; its steps go from the prompt's end to the answer's"


def published(place: Path, workload: Workload) -> Opened:
    return Opened(parts_of(open_published(open_bundle(place), device_named(workload.device)), workload))


def compiled(place: Path, workload: Workload) -> Opened:
    """Steps of one row only: compiling takes minutes for every shape."""
    return _steps(place, workload, CompiledSession, (1,))


def captured(place: Path, workload: Workload) -> Opened:
    """Steps only, each replayed as one CUDA graph: without the host's time to launch kernels one by one."""
    if workload.device != "cuda":
        what = "CUDA graphs are captured on a GPU"
        raise UserError(what, where="--device cpu", fix="use --device cuda, or leave this baseline out of --against")
    return _steps(place, workload, CapturedSession, workload.batches)


def on_backend(backend: str, place: Path, workload: Workload) -> Opened:
    """The bundle on a backend. Raises UserError where that runs on another device; notes say which graphs it leaves to the CPU in part."""
    runtime = open_runtime(open_bundle(place), backend, device_named(workload.device))
    if runtime.device.type != workload.device:
        what = f"{backend} runs on the {runtime.device.type.upper()}"
        raise UserError(what, where=f"--device {workload.device}", fix=f"pass --device {runtime.device.type}")
    left = {name: part for name, session in runtime.sessions.items() if (part := getattr(session, "on_cpu", None))}
    notes = tuple(f"{name} is not all on the GPU: {part}" for name, part in left.items())
    return Opened(parts_of(runtime, workload), notes)


def genai(place: Path, workload: Workload) -> Opened:
    return Opened(genai_parts(place, workload), (GENAI_NOTE,))


def machine(place: Path, workload: Workload) -> Opened:
    """The machine's probes of peak.py, in the bundle's dtype."""
    device, dtype = device_named(workload.device), PRECISIONS[open_bundle(place).manifest.precision].dtype
    probes = [(READ, probe) for probe in read_probes(device)]
    probes += [(PRODUCT, probe) for probe in product_probes(device, dtype)]
    parts = {
        f"{kind}{probe.name}": Part(lambda run=probe.run: synchronized(run, device), probe.amount, lasting=True)
        for kind, probe in probes
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
            except Exception as error:  # torch's and its compiler's have no other common base
                what = f"torch.compile fails ({' '.join(str(error).split())[:200]})"
                raise UserError(
                    what, where="torch.compile", fix="install a C++ compiler, or leave this baseline out"
                ) from error

        return run


class CapturedSession(PyTorchSession):
    """The same module, whose kernels are captured as a CUDA graph on the first call and replayed from the second one on."""

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        eager, replays = super().bind(inputs, outputs), []

        def run() -> None:
            if replays:
                return replays[0]()
            eager()  # so that what libraries allocate on their first call is outside of the graph
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                eager()
            replays.append(graph.replay)

        return run


def _steps(place: Path, workload: Workload, kind: type[PyTorchSession], batches: Sequence[int]) -> Opened:
    """Steps of so many rows, on a session of this kind."""
    runtime = open_runtime(open_bundle(place), "pytorch", device_named(workload.device))
    name = next(name for name in ("decode", "encode") if name in runtime.sessions)
    session = runtime.sessions[name]
    sessions = {**runtime.sessions, name: kind(session.module, session.spec)}
    parts = parts_of(replace(runtime, sessions=sessions), workload)
    kept = [step.format(rows) for step in (DECODE, ENCODE) for rows in batches]
    return Opened({name: part for name, part in parts.items() if name in kept})


RUNNERS: Mapping[str, Callable[[Path, Workload], Opened]] = {
    **{backend: partial(on_backend, backend) for backend in BACKENDS},
    "published": published,
    "compiled": compiled,
    "captured": captured,
    "genai": genai,
    "machine": machine,
}
