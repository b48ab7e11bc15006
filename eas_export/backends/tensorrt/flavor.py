"""Code shared by TensorRT and TensorRT-RTX, from an ONNX file to an engine. The library's module is an argument, so that both can be used
in one process. No torch here: engines are built in their own process (worker.py).
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ...bundle.manifest import Target
from ...core.errors import UserError
from ...core.options import BuildOptions
from ...core.registry import deferred, load
from ...system.memory import OUT_OF_MEMORY
from ...system.packages import install_command
from .. import BACKENDS
from ..contract import Backend, Compiler
from .callbacks import make_monitor, make_writer

UNNAMED = "(Unnamed Layer"  # prefix of the names of tensors that the parser added

Shapes = Mapping[str, tuple[list[int], list[int], list[int]]]  # input -> smallest, usual and largest shape


@dataclass(frozen=True)
class Flavor:
    """TensorRT or TensorRT-RTX: FLAVOR in the file that BACKENDS names.

    backend        its name in BACKENDS
    module         the Python module to import
    title          its name in messages
    extra          the extra of this package that installs it
    without_gpu    its status on a machine without a GPU
    captured_here  whether we capture a step's CUDA graph; otherwise the library captures one itself
    configure      (module, builder's config, target) applies its own settings; returns a function to call after the build, or None
    make_context   (module, engine, whether it runs on the same tensors repeatedly) -> execution context; None if it cannot
    supports       (module, compute capability) -> whether engines for such a GPU can be built
    lacks          see contract.Compiler
    """

    backend: str
    module: str
    title: str
    extra: str
    without_gpu: str
    captured_here: bool
    configure: Callable[[ModuleType, Any, Target], Callable[[], None] | None]
    make_context: Callable[[ModuleType, Any, bool], Any] = lambda trt, engine, stays: engine.create_execution_context()
    supports: Callable[[ModuleType, str], bool] = lambda trt, capability: True
    lacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def as_backend(self, target: Callable[[BuildOptions], Target]) -> Backend:
        """Its Backend; modules that need torch or onnx_ir are imported when called."""
        open_engines = deferred(".backends.tensorrt.session:open_engines", self)
        return Backend(
            open=open_engines,
            open_low_memory=open_engines,
            private_bytes=lambda bundle: 0,  # weights are on the device
            health=deferred(".backends.tensorrt.session:health", self),
            compiler=Compiler(
                target,
                plan=deferred(".backends.tensorrt.build:plan_engine", self),
                layers=deferred(".backends.tensorrt.build:list_layers", self),
                lacks=self.lacks,
            ),
        )

    def load(self) -> ModuleType:
        """Import the module. Raises UserError if it is not installed or its libraries are missing."""
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name != self.module:
                raise self._broken(error) from None
            what, fix = f"{self.title} is not installed", install_command(self.extra)
            raise UserError(what, where=f"--backend {self.backend}", fix=fix) from None
        except (ImportError, OSError, RuntimeError) as error:  # for example wheels without their libraries
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> UserError:
        what = f"{self.title} cannot be imported ({' '.join(str(error).split())[:200]})"
        command = install_command(self.extra, option="--force-reinstall")
        fix = f"on a machine that reaches NVIDIA's package index: {command}"
        return UserError(what, where=f"--backend {self.backend}", fix=fix)


def get_flavor(backend: str) -> Flavor:
    """The Flavor of the backend of this name."""
    return load(f"{BACKENDS[backend].place.split(':')[0]}:FLAVOR")


class Refused(Exception):
    """The parser or the builder rejects a graph; `errors` are its messages."""

    def __init__(self, errors: list[str]):
        self.errors = errors
        super().__init__("; ".join(errors)[:2000] or "no reason given")


@dataclass(frozen=True)
class Network:
    """A parsed graph. Keeps the builder and the parser alive, which it needs."""

    builder: Any
    definition: Any
    parser: Any

    @property
    def layers(self) -> list[Any]:
        return [self.definition.get_layer(index) for index in range(self.definition.num_layers)]


@functools.cache
def logger(trt: ModuleType) -> Any:
    """The process's only logger, which collects error messages in `errors`."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(text)

    return Log()


def parse(trt: ModuleType, model: Path) -> Network:
    """Parse an ONNX file as a strongly typed network, and undo the parser's scaling of attentions. Raises Refused."""
    log = logger(trt)
    log.errors.clear()
    builder = trt.Builder(log)
    definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(definition, log)
    network = Network(builder, definition, parser)
    if not parser.parse_from_file(str(model)):
        raise Refused([parser.get_error(index).desc() for index in range(parser.num_errors)] or log.errors)
    _drop_scales_of_one(trt, network)
    return network


def attentions(trt: ModuleType, network: Network) -> list[Any]:
    """The attentions that are one layer, without those that the parser decomposed."""
    fused = []
    for layer in network.layers:
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            fused.append(layer.attention)
    return fused


def _drop_scales_of_one(trt: ModuleType, network: Network) -> None:
    """Bypass the parser's products of q and k with the root of Attention's scale, which the rewritten graph sets to 1: then k is the cache
    itself and not a copy. The graph's own products, which have names, stay, such as q times its scale."""
    makers = {layer.get_output(index).name: layer for layer in network.layers for index in range(layer.num_outputs)}
    for attention in attentions(trt, network):
        for side in (0, 1):
            tensor = attention.get_input(side)
            product = makers.get(tensor.name)
            if tensor.name.startswith(UNNAMED) and product is not None and product.type == trt.LayerType.ELEMENTWISE:
                attention.set_input(side, product.get_input(0))


def make_config(trt: ModuleType, network: Network, shapes: Shapes) -> Any:
    """The builder's configuration: full float32 products, and one profile from the limits. Raises Refused."""
    from polygraphy.backend.trt import Profile

    config = network.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = Profile()
    for name, (smallest, usual, largest) in shapes.items():
        profile.add(name, smallest, usual, largest)
    inputs = [network.definition.get_input(index) for index in range(network.definition.num_inputs)]
    for tensor in inputs:  # weights, and inputs of one shape only
        if tensor.name not in shapes:
            profile.add(tensor.name, *[tuple(tensor.shape)] * 3)
    if config.add_optimization_profile(profile.to_trt(network.builder, network.definition)) < 0:
        raise Refused([*logger(trt).errors, "the builder does not accept the limits as shapes"])
    return config


def build(
    flavor: Flavor,
    model: Path,
    engine: Path,
    shapes: Shapes,
    target: Target,
    on_fraction: Callable[[float], bool] = lambda done: True,
) -> str:
    """Build the engine of an ONNX file. on_fraction is called with the progress, 0 to 1; the build ends if it returns False.

    Returns how attention is computed: "fused", "decomposed" if the builder has no single kernel for it, or "none". Raises Refused, and
    exceptions of on_fraction.
    """
    trt = flavor.load()
    network = parse(trt, model)
    fused, apart = attentions(trt, network), _is_in_parts(trt, network)
    config = make_config(trt, network, shapes)
    keep = flavor.configure(trt, config, target)
    config.progress_monitor = monitor = make_monitor(trt, on_fraction)
    errors = logger(trt).errors
    errors.clear()
    done = _write(trt, network, config, engine)
    given_up = monitor.stopped or OUT_OF_MEMORY.search("; ".join(errors))
    decomposed = not done and bool(fused) and not given_up
    if decomposed:  # no kernel, or one that the builder's compiler fails on: its messages vary
        for attention in fused:
            attention.decomposable = True
        errors.clear()
        monitor.restart()
        done = _write(trt, network, config, engine)
    if monitor.failure:
        raise monitor.failure
    if not done:
        raise Refused(list(errors))
    if keep:
        keep()
    return "decomposed" if decomposed or apart else "fused" if fused else "none"


def _is_in_parts(trt: ModuleType, network: Network) -> bool:
    """Whether the graph has attentions in parts, as where their scores are bounded: softmaxes of [B, H, L, keys]."""
    softmaxes = (layer for layer in network.layers if layer.type == trt.LayerType.SOFTMAX)
    return any(len(layer.get_output(0).shape) == 4 for layer in softmaxes)


def _write(trt: ModuleType, network: Network, config: Any, engine: Path) -> bool:
    """Stream the engine into a file; returns whether it was built. Raises OSError if the file cannot be written, which the builder would
    ignore."""
    with open(engine, "wb") as file:
        writer = make_writer(trt, file)
        done = network.builder.build_serialized_network_to_stream(network.definition, config, writer)
        if writer.failure:
            raise writer.failure
        return bool(done) and file.tell() > 0
