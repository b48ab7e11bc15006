"""Every name of TensorRT's that we use is in its bindings, of the oldest and the newest version that are supported: their wheels are
unpacked and searched, not imported (their libraries come from elsewhere and want a GPU)."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from eas_export.backends.tensorrt import callbacks as _trt_callbacks
from eas_export.backends.tensorrt import flavor, session, tensorrt

VERSIONS = ("10.16.1.11", "11.4.0.106")
# What TensorRT's objects are called in our files
OBJECTS = {
    "trt", "builder", "definition", "parser", "config", "layer", "attention", "product", "tensor", "engine", "runtime",
    "self._context", "self._engine", "network.builder", "network.definition", "config.get_timing_cache()", "error",
}  # fmt: skip
OURS = {
    "__class__",
    "errors",
    "restart",
    "data_ptr",
    "startswith",
}  # attributes of such objects that are Python's, torch's or ours


def names_used(*files: str) -> set[str]:
    """Every attribute of a TensorRT object, "trt.LayerType.CAST" as its three names, and our subclasses' bases and methods."""
    found: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(Path(file).read_text())):
            if isinstance(node, ast.Attribute):
                parts = ast.unparse(node).split(".")
                for cut in range(1, len(parts)):
                    if ".".join(parts[:cut]) in OBJECTS:
                        found |= {part.split("(")[0] for part in parts[cut:]}
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("trt.") for base in node.bases):
                found |= {m.name for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")}
    return {name for name in found if name.isidentifier()} - OURS


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request, tmp_path_factory) -> bytes:
    """The bytes of the wheel's extension module."""
    folder = Path(request.config.cache.mkdir("trt_bindings"))
    wheels = list(folder.glob(f"tensorrt_cu13_bindings-{request.param}-*.whl"))
    if not wheels:
        package = f"tensorrt-cu13-bindings=={request.param}"
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"{package} cannot be had: {done.stderr.strip().splitlines()[-1]}")
        wheels = list(folder.glob(f"tensorrt_cu13_bindings-{request.param}-*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        return b"".join(wheel.read(name) for name in wheel.namelist() if name.endswith((".so", "__init__.py")))


def test_every_name_is_in_the_bindings(bindings):
    ours = (_trt_callbacks, flavor, session, tensorrt)
    used = names_used(*(module.__file__ for module in ours))
    known = {"OnnxParser", "parse_from_file", "IAttentionInputLayer", "set_timing_cache", "execute_async_v3", "TF32"}
    assert known <= used and len(used) > 45, sorted(used)
    missing = [
        name for name in sorted(used) if name.encode() + b"\0" not in bindings and name.encode() + b" " not in bindings
    ]
    assert missing == []


def test_the_search_can_fail(bindings):
    """A name of TensorRT-RTX's alone is not there."""
    assert b"num_compute_capabilities\0" not in bindings
