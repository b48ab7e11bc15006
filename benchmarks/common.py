"""Shared by all benchmark scripts: the record of where and how a figure was measured, and where results go."""

import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

from eas_export.system.machine import cpu_name, total_memory

RESULTS = Path(__file__).parent / "results"


PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


def environment(packages: tuple[str, ...] = PACKAGES, gpu: dict | None = None) -> dict:
    """The machine, the versions of those packages that are installed, and the command."""
    versions = {package: version for package in packages if (version := _version(package))}
    return {
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "memory_gb": round(total_memory() / 1e9, 1),
            "gpu": gpu,
        },
        "versions": {"python": platform.python_version()} | versions,
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_result(
    name: str,
    figures: dict,
    bars: dict[str, float],
    packages: tuple[str, ...] = PACKAGES,
    out_of_reach: dict[str, str] | None = None,
) -> None:
    """Print a result and write it to results/<name>.json. Exits 1 where a figure is above its bar or missing.

    out_of_reach  figure -> why it misses its bar, written to the result where it does
    """
    missed = {figure for figure, bar in bars.items() if figures[figure] is None or figures[figure] > bar}
    known = {figure: why for figure, why in (out_of_reach or {}).items() if figure in missed}
    result = {"name": name} | figures | {"bars": bars} | ({"missed": known} if known else {}) | environment(packages)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if unknown := missed - known.keys():
        sys.exit(
            "; ".join(f"{figure} is {figures[figure]}, above its bar of {bars[figure]}" for figure in sorted(unknown))
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
