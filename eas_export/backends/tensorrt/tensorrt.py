"""TensorRT, for data-centre GPUs: engines are built on the GPU that they run on. 10.15 to 11.x, whose Python names are the same."""

import os
import re
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from ...bundle.manifest import Target
from ...core.errors import UserError
from ...core.options import BuildOptions
from ...system.hashing import cache_folder
from .entry import trt_backend
from .flavor import Flavour

BACKEND = "tensorrt"
OLDEST, NEWEST = (10, 15), (11, 99)


def configure(trt: ModuleType, config: Any, target: Target) -> object:
    """Take what earlier builds measured: kernels that were timed once are not timed again. Returns the cache, which has to outlive the
    build."""
    try:
        known = _timing_file(target).read_bytes()
    except OSError:  # the first build
        known = b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, False):  # another driver's, or not whole
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def keep(trt: ModuleType, config: Any, target: Target) -> None:
    """Without a word where it cannot be written: then kernels are timed again next time."""
    path = _timing_file(target)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))
        partial.replace(path)


FLAVOUR = Flavour(
    backend=BACKEND,
    module="tensorrt",
    title="TensorRT",
    extra="gpu",
    without_gpu="nothing: it builds and runs engines on a GPU, and PyTorch sees none here",
    captured_here=True,
    configure=configure,
    keep=keep,
    make_context=lambda trt, engine, stays: engine.create_execution_context(),
    supports=lambda trt, capability: True,  # it knows the GPU that it runs on, or says so when it builds
)


def target(options: BuildOptions) -> Target:
    """This machine's GPU. Raises UserError where TensorRT or a GPU is missing, and for another GPU than this one."""
    trt = FLAVOUR.load()
    if not OLDEST <= tuple(int(part) for part in trt.__version__.split(".")[:2]) <= NEWEST:
        what = f"TensorRT {trt.__version__} is installed, 10.15 to 11.x are what engines are built with"
        raise UserError(what, where=f"--backend {BACKEND}", fix="pip install 'eas-export[gpu]'")
    found = _gpu()
    if found is None:
        raise UserError(
            "TensorRT builds engines on the GPU that they run on, and PyTorch sees none here",
            where=f"--backend {BACKEND}",
            fix="build there, or build --backend tensorrt-rtx, which needs none",
        )
    name, capability = found
    if options.compute_capability is not None and options.compute_capability.replace(".", "") != capability.replace(
        ".", ""
    ):
        raise UserError(
            f"TensorRT builds for this machine's GPU, which is {capability}",
            where="--compute-capability",
            fix="leave it out; it belongs to --backend tensorrt-rtx",
        )
    return Target(
        backend=BACKEND,
        version=trt.__version__,
        compute_capabilities=(capability,),
        weights=options.engine_weights,
        gpu=name,
    )


def _gpu() -> tuple[str, str] | None:
    """Its name and compute capability, None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(), "{}.{}".format(*torch.cuda.get_device_capability())


def _timing_file(target: Target) -> Path:
    gpu = re.sub(r"\W+", "-", target.gpu)
    return cache_folder() / f"timing-{target.version}-{gpu}.cache"


TENSORRT = trt_backend(FLAVOUR, target)
