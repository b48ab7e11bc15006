"""Run engines on torch's device tensors: all engines share one copy of the bound weights, and caches are updated in place.

A graph that runs repeatedly is bound to its tensors once: a step then copies its three small inputs and launches. If possible, all
launches of a step become one CUDA graph: TensorRT-RTX captures it itself, TensorRT's is captured here.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from ...bundle.bundle import Bundle
from ...bundle.manifest import Target
from ...core.errors import InternalError, UserError
from ...core.graph_spec import GraphSpec
from ...system.memory import MORE_MEMORY, enough_memory
from ..contract import Health
from ..runtime import Runtime, Tensors
from .engine_graph import engine_spec
from .flavor import Flavor, logger

AGAIN = "build again with --force"
BOUND = "decode"  # the graph that runs on the same tensors repeatedly; the others' tensors change


class EngineSession:
    """A graph's engine.

    weights  name -> tensor on the device, for every input that is not in the spec
    """

    def __init__(self, trt: ModuleType, flavor: Flavor, engine: Any, spec: GraphSpec, weights: Tensors):
        self.spec, self._flavor, self._engine = spec, flavor, engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._inputs = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        _require_own(trt, engine, spec, set(names) - self._inputs)
        self._names = set(names)
        self._errors = logger(trt).errors
        self._errors.clear()
        self._context = flavor.make_context(trt, engine, spec.name == BOUND)
        if self._context is None:
            raise self._failure("cannot create the engine's context", MORE_MEMORY)
        self._weights = {name: weights[name] for name in self._inputs - {tensor.name for tensor in spec.inputs}}
        for name, tensor in self._weights.items():
            self._set_address(name, tensor)
        self._attached: object = None

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        for inputs, outputs in requests:
            self._attach(inputs, outputs)
            self._launch()

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        ours = object()  # a token: the session itself must not keep the tensors alive
        graph: torch.cuda.CUDAGraph | None = None  # valid until other tensors are attached
        warm, capturable = False, self._flavor.captured_here and torch.cuda.is_available()

        def run() -> None:
            nonlocal graph, warm, capturable
            if self._attached is not ours:
                self._attach(inputs, outputs)
                self._attached, graph, warm = ours, None, False
            if graph is None and warm and capturable:
                graph = self._capture()
                capturable = graph is not None
            if graph is not None:
                graph.replay()
            else:  # the first launch allocates the engine's memory
                self._launch()
                warm = True

        return run

    def _attach(self, inputs: Tensors, outputs: Tensors) -> None:
        self._attached = None
        for name in self._inputs - set(self._weights):
            shape = tuple(inputs[name].shape)
            if not self._context.set_input_shape(name, shape):  # sizes were checked against the limits before
                raise InternalError(f"the engine of {self.spec.name} does not take {name} of shape {shape}")
        for name, tensor in (*inputs.items(), *outputs.items()):
            if name in self._names:
                self._set_address(name, tensor)

    def _set_address(self, name: str, tensor: torch.Tensor) -> None:
        if not self._context.set_tensor_address(name, tensor.data_ptr()):
            raise InternalError(f"the engine of {self.spec.name} does not take an address for {name}")

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """Capture the launches of a step as one; None if that is impossible."""
        graph = torch.cuda.CUDAGraph()
        try:
            with _engines_stream() as stream:
                captured_on = torch.cuda.current_stream()
                with torch.cuda.graph(graph, stream=captured_on, capture_error_mode="thread_local"):
                    self._enqueue(stream)
        except (UserError, RuntimeError):  # from the engine, or from CUDA when the capture ends
            return None
        return graph

    def _launch(self) -> None:
        with _engines_stream() as stream:
            self._enqueue(stream)

    def _enqueue(self, stream: int) -> None:
        self._errors.clear()
        if not self._context.execute_async_v3(stream):
            fix = "eas-export inspect --check tells whether the bundle is damaged; if memory is short, lower its limits"
            raise self._failure("failed to run the engine", fix)

    def _failure(self, problem: str, fix: str) -> UserError:
        what = f"{self._flavor.title} {problem} ({'; '.join(self._errors)[:300] or 'no reason given'})"
        return UserError(what, where=f"graph {self.spec.name}", fix=fix)


@contextmanager
def _engines_stream() -> Iterator[int]:
    """A stream that is ordered with the current one. On the default stream TensorRT would synchronize the device at each launch."""
    if not torch.cuda.is_available():  # engines of tests
        yield 0
        return
    outer, inner = torch.cuda.current_stream(), _stream_of(torch.cuda.current_device())
    inner.wait_stream(outer)
    try:
        with torch.cuda.stream(inner):
            yield inner.cuda_stream
    finally:
        outer.wait_stream(inner)


@functools.cache
def _stream_of(device: int) -> Any:
    return torch.cuda.Stream(device)


def _require_own(trt: ModuleType, engine: Any, spec: GraphSpec, outputs: set[str]) -> None:
    """Raise UserError unless the engine has the spec's outputs and updates the spec's aliases in place."""
    wanted = {tensor.name for tensor in spec.outputs}
    in_place = {name: engine.get_aliased_input_tensor(name) for name in outputs & set(spec.aliases)}
    if outputs != wanted or in_place != spec.aliases:
        different = sorted((outputs ^ wanted) | {name for name in in_place if in_place[name] != spec.aliases[name]})
        what = f"the engine's output {different[0]} does not match the graph"
        raise UserError(what, where=f"graph {spec.name}", fix=AGAIN)


def open_engines(flavor: Flavor, bundle: Bundle) -> Runtime:
    """Open the engines of every graph. Raises UserError if the bundle has none for this TensorRT or this GPU, and if the device has too
    little memory."""
    m = bundle.manifest
    built = m.engines(flavor.backend)
    if set(built) != set(m.graphs):
        missing = f"engine for graph {min(set(m.graphs) - set(built))}" if built else "engines"
        what = f"the bundle has no {flavor.title} {missing}"
        raise UserError(what, where=bundle.path, fix=f"build with --backend {flavor.backend} and --force")
    trt = flavor.load()
    for record in built.values():
        require_same(record.target, trt.__version__, _capability(), flavor, bundle)
    device = torch.device("cuda", torch.cuda.current_device())
    specs = {name: engine_spec(spec) for name, spec in m.graphs.items()}
    runtime = trt.Runtime(logger(trt))
    engines = {name: _load(flavor, trt, runtime, bundle, name) for name in specs}
    weights = device_weights(bundle, engines.values(), device)
    sessions = {n: EngineSession(trt, flavor, engine, specs[n], weights) for n, engine in engines.items()}
    return Runtime(flavor.backend, m.config, m.plan, m.limits, sessions, device)


def require_same(target: Target, version: str, capability: str | None, flavor: Flavor, bundle: Bundle) -> None:
    """Raise UserError unless engines for `target` run with this version on a GPU of this compute capability (None: no GPU)."""
    where = bundle.path
    if target.version != version:
        what = f"the engines were built by {flavor.title} {target.version}, but {version} is installed"
        fix = f"install {flavor.title} {target.version}, or {AGAIN}"
        raise UserError(what, where=where, fix=fix)
    if capability is None:
        fix = "run the bundle on a machine with a GPU, or with --backend onnxruntime"
        raise UserError(f"{flavor.title} engines need a GPU, and PyTorch sees none here", where=where, fix=fix)
    if capability not in target.compute_capabilities:
        for_ = ", ".join(target.compute_capabilities)
        what = f"the engines are for compute capability {for_}, but this GPU has {capability}"
        fix = f"{AGAIN} and --compute-capability {capability}, or on this machine with --backend tensorrt"
        raise UserError(what, where=where, fix=fix)


def device_weights(bundle: Bundle, engines: Iterable[Any], device: torch.device) -> Tensors:
    """Copy every tensor of the store that an engine takes as an input to the device, once."""
    names = {engine.get_tensor_name(index) for engine in engines for index in range(engine.num_io_tensors)} & set(
        bundle.store.entries
    )
    needed = sum(bundle.store.entries[name].nbytes for name in names)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else needed
    if needed > free:
        what = f"the weights take {needed / 1e9:.2f} GB of GPU memory, but {free / 1e9:.2f} GB are free"
        raise UserError(what, where=bundle.path, fix=MORE_MEMORY)
    with enough_memory(bundle.path):
        return {name: bundle.store.tensor(name).to(device, copy=True) for name in sorted(names)}


def _load(flavor: Flavor, trt: ModuleType, runtime: Any, bundle: Bundle, graph: str) -> Any:
    path = bundle.engine_file(graph, flavor.backend)
    errors = logger(trt).errors
    errors.clear()
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        reason = "; ".join(errors)[:300] or "no reason given"
        what = f"{flavor.title} {trt.__version__} cannot load the engine ({reason})"
        raise UserError(what, where=path, fix=f"eas-export inspect {bundle.path} --check finds damage; else {AGAIN}")
    return engine


def _capability() -> str | None:
    return "{}.{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def health(flavor: Flavor) -> Health:
    try:
        trt = flavor.load()
    except UserError as error:
        return Health(version=None, runs=False, status=f"not usable: {error.what}", fix=error.fix)
    capability = _capability()
    if capability is None:
        return Health(version=trt.__version__, runs=False, status=flavor.without_gpu)
    if not flavor.supports(trt, capability):
        status = f"builds engines ahead of time, but cannot run them on this GPU (compute capability {capability})"
        return Health(
            version=trt.__version__, runs=False, status=status, fix="for data-centre GPUs: --backend tensorrt"
        )
    return Health(version=trt.__version__, runs=True, status=f"builds and runs engines on this GPU ({capability})")
