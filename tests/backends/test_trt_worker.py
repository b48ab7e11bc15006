"""The process that builds: what it imports, and what its answers become."""

import shutil
import subprocess
import sys
from pathlib import Path

import eas_export

ASK = """
import sys
sys.path.insert(next(i for i, path in enumerate(sys.path) if path.endswith("site-packages")), sys.argv[1])
from eas_export.backends.tensorrt import build
from eas_export.backends.tensorrt.tensorrt_rtx import FLAVOR
assert build.__file__.startswith(sys.argv[1])
build.run_worker(FLAVOR, "decode", {"backend": "tensorrt-rtx", "model": "nowhere"}, print)
"""


def test_what_is_installed_beside_us_hides_nothing_of_pythons(tmp_path):
    """A package beside ours that has the name of a module of the standard library is as invisible to the worker as it is here."""
    shutil.copytree(Path(eas_export.__file__).parent, tmp_path / "eas_export")
    (tmp_path / "json.py").write_text("raise SystemExit('another json')")
    done = subprocess.run([sys.executable, "-I", "-c", ASK, str(tmp_path)], capture_output=True, text=True)
    assert "TensorRT-RTX rejects the graph" in done.stderr and "another json" not in done.stderr
