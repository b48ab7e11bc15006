"""What every benchmark script shares: the record of where and how a figure was measured, and where results go."""

import importlib.metadata
import json
import os
import platform
import resource
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


def environment(packages: tuple[str, ...] = PACKAGES, gpu: dict | None = None) -> dict:
    """The machine, the versions of those packages that are installed, and the command."""
    versions = {package: version for package in packages if (version := _version(package))}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1), "gpu": gpu},
        "versions": {"python": platform.python_version()} | versions,
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_result(name: str, figures: dict, bars: dict[str, float]) -> None:
    """Print a result and keep it under results/<name>.json. Exits 1 where a figure is above its bar."""
    result = {"name": name} | figures | {"bars": bars} | environment()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    missed = [
        f"{figure} is {figures[figure]}, its bar is {bar}" for figure, bar in bars.items() if figures[figure] > bar
    ]
    if missed:
        sys.exit("; ".join(missed))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
