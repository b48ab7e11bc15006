"""TensorRT, for data-centre GPUs: engines are built on the GPU that they run on. Supports 10.15 to 11.x, whose Python names are the same."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from ...bundle.manifest import Target
from ...core.errors import UserError
from ...core.options import BuildOptions
from ...system.hashing import cache_folder
from ...system.packages import install_command
from .flavor import Flavor

BACKEND = "tensorrt"
OLDEST, NEWEST = (10, 15), (11, 99)


def configure(trt: ModuleType, config: Any, target: Target) -> Callable[[], None]:
    """Load the timing cache of earlier builds, so that kernels are timed only once. Returns the function that saves it after the build."""
    path = _timing_file(target)
    try:
        known = path.read_bytes()
    except OSError:  # the first build
        known = b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, False):  # from another driver, or truncated
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)

    def keep(outlives_the_build: object = cache) -> None:
        """Save the cache. Ignores a failure: then the next build times the kernels again."""
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
            partial.replace(path)

    return keep


FLAVOR = Flavor(
    backend=BACKEND,
    module="tensorrt",
    title="TensorRT",
    extra="gpu",
    without_gpu="not usable: TensorRT builds and runs engines on a GPU, and PyTorch sees none here",
    captured_here=True,
    configure=configure,
)


def target(options: BuildOptions) -> Target:
    """The target for this machine's GPU. Raises UserError if TensorRT or a GPU is missing, and for another GPU than this one."""
    trt = FLAVOR.load()
    if not OLDEST <= tuple(int(part) for part in trt.__version__.split(".")[:2]) <= NEWEST:
        what = f"TensorRT {trt.__version__} is installed, but engines are built with 10.15 to 11.x"
        raise UserError(what, where=f"--backend {BACKEND}", fix=install_command(FLAVOR.extra, BACKEND))
    import torch  # imported late: the process that builds does not need it

    if not torch.cuda.is_available():
        what = "TensorRT builds engines on the GPU that they run on, and PyTorch sees none here"
        fix = "build on that machine, or with --backend tensorrt-rtx, which needs no GPU"
        raise UserError(what, where=f"--backend {BACKEND}", fix=fix)
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    wanted = capability if options.compute_capability is None else options.compute_capability
    if wanted.replace(".", "") != capability.replace(".", ""):
        what = f"compute capability {wanted} was requested, but this machine's GPU has {capability}"
        fix = "leave it out; only --backend tensorrt-rtx builds for other GPUs"
        raise UserError(what, where="--compute-capability", fix=fix)
    return Target(
        backend=BACKEND,
        version=trt.__version__,
        compute_capabilities=(capability,),
        weights=options.engine_weights,
        gpu=torch.cuda.get_device_name(),
    )


def _timing_file(target: Target) -> Path:
    gpu = re.sub(r"\W+", "-", target.gpu)
    return cache_folder() / f"timing-{target.version}-{gpu}.cache"


TENSORRT = FLAVOR.as_backend(target)
