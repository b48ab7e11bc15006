"""TensorRT-RTX: engines for GeForce and RTX GPUs, built ahead of time on any machine, with or without a GPU.

An engine covers several compute capabilities; its kernels are compiled for the actual GPU when it is loaded.
"""

import re
from types import ModuleType
from typing import Any

from ...bundle.manifest import Target
from ...core.errors import UserError
from ...core.options import BuildOptions
from .flavor import Flavor, Refused

BACKEND = "tensorrt-rtx"
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")  # Ampere, Ada and Blackwell


def configure(trt: ModuleType, config: Any, target: Target) -> None:
    """Set the target GPUs; otherwise the builder needs one here. Raises Refused."""
    config.num_compute_capabilities = len(target.compute_capabilities)
    for index, capability in enumerate(target.compute_capabilities):
        if not config.set_compute_capability(_member(trt, capability), index):
            raise Refused([f"compute capability {capability} is not supported"])


def make_context(trt: ModuleType, engine: Any, stays: bool) -> Any:
    """An execution context. The library captures a step as a CUDA graph itself, and again whenever a tensor's address changes."""
    config, strategy = engine.create_runtime_config(), trt.CudaGraphStrategy
    config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if stays else strategy.DISABLED
    return engine.create_execution_context(config)


FLAVOR = Flavor(
    backend=BACKEND,
    module="tensorrt_rtx",
    title="TensorRT-RTX",
    extra="rtx",
    without_gpu="builds engines ahead of time, but cannot run them: PyTorch sees no GPU here",
    captured_here=False,
    configure=configure,
    make_context=make_context,
    supports=lambda trt, capability: _member(trt, capability) is not None,
    lacks={"7.5": ("float32", "bfloat16")},  # Turing
)


def read_capabilities(text: str | None) -> tuple[str, ...]:
    """ "86,120" or "8.6, 12.0" -> ("8.6", "12.0"), sorted; None: CAPABILITIES. Raises UserError for anything else."""
    if text is None:
        return CAPABILITIES
    matches = [re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", part.strip(), re.I) for part in text.split(",")]
    if not all(matches):
        what = f"{text!r} is not a list of compute capabilities"
        raise UserError(what, where="--compute-capability", fix="write them like 86,120 or 8.6,12.0")
    return tuple(f"{major}.{minor}" for major, minor in sorted({(int(m[1]), int(m[2])) for m in matches}))


def target(options: BuildOptions) -> Target:
    """The target for the options' GPUs. Raises UserError if TensorRT-RTX is missing, and for GPUs that it does not support."""
    trt = FLAVOR.load()
    capabilities = read_capabilities(options.compute_capability)
    for capability in capabilities:
        if not FLAVOR.supports(trt, capability):
            known = sorted(int(name[2:]) for name in dir(trt.ComputeCapability) if name.startswith("SM"))
            what = f"TensorRT-RTX {trt.__version__} does not support compute capability {capability}"
            fix = f"choose from {','.join(map(str, known))}; for data-centre GPUs, use --backend tensorrt"
            raise UserError(what, where="--compute-capability", fix=fix)
    return Target(
        backend=BACKEND, version=trt.__version__, compute_capabilities=capabilities, weights=options.engine_weights
    )


def _member(trt: ModuleType, capability: str) -> Any:
    """ "8.6" -> ComputeCapability.SM86, None if it does not exist"""
    return getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)


TENSORRT_RTX = FLAVOR.as_backend(target)
