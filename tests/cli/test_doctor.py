"""doctor: what is there, what could run, what is missing."""

import importlib.metadata
import json
import subprocess
import sys

import onnxruntime
import torch

from eas_export.system.packages import install_command


def test_doctor_says_what_is_installed(command):
    code, text, _ = command("doctor", "--json")
    said = json.loads(text)
    assert code == 0 and said["ok"] is True
    packages = {(package["name"], package["used_for"]): package for package in said["packages"]}
    assert packages["torch", "everything"]["installed"] == importlib.metadata.version("torch")
    assert packages["onnxruntime", "cpu"]["ok"] and not packages["onnxruntime", "cpu"]["fix"]
    missing = [package for package in said["packages"] if package["installed"] is None]
    assert all(package["fix"] == f"pip install '{package['name']}{package['wanted']}'" for package in missing)
    assert "pytest" not in {name for name, _ in packages}
    assert said["backends"]["onnxruntime"]["version"] == onnxruntime.__version__
    assert said["backends"]["pytorch"]["version"] == torch.__version__
    assert (said["machine"]["gpu"] is None) == (not torch.cuda.is_available())
    code, text, _ = command("doctor")
    assert code == 0 and "runs bundles on the CPU" in text and "TensorRT" in text


def doctor_without(*modules: str) -> tuple[int, dict]:
    """doctor --json in a process where these packages cannot be found."""
    script = f"""
import importlib.metadata, sys
gone = {modules!r}
for name in gone: sys.modules[name] = None
version = importlib.metadata.version
def find(name):
    if name in gone: raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = find
sys.argv = ["eas-export", "doctor", "--json"]
from eas_export.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_without_onnxruntime_nothing_runs_bundles():
    code, said = doctor_without("onnxruntime")
    assert code == 1 and said["ok"] is False
    assert said["backends"]["onnxruntime"]["version"] is None
    assert said["backends"]["onnxruntime"]["fix"] == "pip install 'onnxruntime>=1.31'"


def test_it_works_without_torch():
    code, said = doctor_without("torch")
    assert code == 1 and said["backends"] == {} and "not examined" in said["notes"][-1]
    assert [p["fix"] for p in said["packages"] if p["name"] == "torch"] == ["pip install 'torch>=2.11'"]


def test_a_broken_backend_is_named_not_fallen_over(monkeypatch, command):
    """The leftovers of one onnxruntime wheel after another: a module without anything in it."""
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    code, text, _ = command("doctor", "--json")
    said = json.loads(text)["backends"]["onnxruntime"]
    assert code == 1 and "broken" in said["status"] and "install it again" in said["fix"]


def test_what_cannot_be_imported_is_noted(monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: 1 / 0)
    code, text, _ = command("doctor", "--json")
    said = json.loads(text)
    assert code == 0 and said["machine"]["gpu"] is None and said["backends"]
    assert "the gpu cannot be examined: ZeroDivisionError" in said["notes"][-1]


def test_a_package_that_is_out_of_range_is_not_ok(monkeypatch, command):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.10.0" if name == "onnxruntime" else version(name)
    )
    code, text, _ = command("doctor", "--json")
    assert code == 1 and json.loads(text)["ok"] is False


def test_a_missing_package_is_one_line(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    monkeypatch.delitem(sys.modules, "eas_export.doctor", raising=False)
    assert "packaging.requirements is not installed" in refused("doctor")


def test_what_builds_engines_and_cannot_run_them_is_no_way_to_run(monkeypatch, command):
    """TensorRT-RTX without a GPU builds; without ONNX Runtime nothing runs here then."""
    code, text, _ = command("doctor", "--json")
    said = json.loads(text)["backends"]
    assert said["tensorrt-rtx"]["version"] == importlib.metadata.version("tensorrt-rtx")
    assert said["tensorrt-rtx"]["runs"] == torch.cuda.is_available()
    if not torch.cuda.is_available():
        assert "builds engines ahead of time" in said["tensorrt-rtx"]["status"]
    assert said["tensorrt"] == {
        "version": None,
        "runs": False,
        "status": "not usable: TensorRT is not installed",
        "fix": install_command("gpu"),
    }
    code, said = doctor_without("onnxruntime")
    assert code == 1 and said["backends"]["tensorrt-rtx"]["version"]
