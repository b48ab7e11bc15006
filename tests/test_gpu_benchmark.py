"""benchmarks/gpu.py with the CPU where a GPU would be: real builds, verifications and timings of a small model, and the results."""

import json
import os
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import gpu
import pytest
import torch

from eas_export.bench.decoder import BASELINES
from eas_export.cli.main import cli

SCRIPT = Path(gpu.__file__)
SETTINGS = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}
DEMO = ("--device", "cpu", "--shape", "demo", "--precision", "fp32", "--prompt", "8", "--rounds", "2")
RAN = ["checkpoint", "build weights", "verify weights", "bench weights"]
ASKED = {"shape": "7B", "precision": "fp16", "prompt": 64, "rounds": 8, "work": Path("WORK")}
ON_GPU = gpu.plan(Namespace(device="cuda", **ASKED), {"compute_capability": "9.0"})


def started(work: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), "--work", str(work), *DEMO, *options]
    return subprocess.run(command, env=SETTINGS, capture_output=True, text=True)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What a run leaves, the lines that it prints, and its folder."""
    work, results = tmp_path_factory.mktemp("gpu"), tmp_path_factory.mktemp("results")
    committed = sorted(gpu.RESULTS.iterdir())
    done = started(work, "--only", "bench weights,verify weights,build tensorrt", "--results", str(results))
    assert done.returncode == 0, done.stderr
    assert sorted(gpu.RESULTS.iterdir()) == committed
    found = json.loads((work / "gpu_demo_fp32_8.json").read_text())
    assert json.loads((results / "gpu_demo_fp32_8.json").read_text()) == found
    return found, done.stdout.splitlines(), work


def test_it_builds_verifies_and_times_in_this_order(result):
    found, lines, _ = result
    steps = found["steps"]
    assert [name for name, record in steps.items() if "report" in record] == RAN == [*steps][: len(RAN)]
    assert [line.split(":")[0] for line in lines] == [*steps] == [step.name for step in ON_GPU]
    verified = {step["name"]: step for step in steps["verify weights"]["report"]["steps"]}
    assert {"pytorch", "onnxruntime"} <= set(verified) and not any(step["why_not"] for step in verified.values())
    assert found["parity_failures"] == 0 and steps["verify weights"]["report"]["verdict"] == "same as the checkpoint"
    timed = steps["bench weights"]["report"]["baselines"]
    assert {name for name, each in timed.items() if each["steady"]} == {
        "onnxruntime-weights",
        "onnxruntime-floor",
        "pytorch-weights",
    }
    assert "folded against no adapters" in [claim["name"] for claim in steps["bench weights"]["report"]["claims"]]


def test_what_was_not_run_says_why(result):
    found, lines, _ = result
    steps, timed = found["steps"], found["steps"]["bench weights"]["report"]["baselines"]
    for name in ("pytorch-captured-weights", "pytorch-captured-floor"):
        assert timed[name]["why_not"].startswith("CUDA graphs are captured on a GPU")
    assert steps["build tensorrt"]["not_run"].startswith("TensorRT is not installed")
    assert f"build tensorrt: not run: {steps['build tensorrt']['not_run']}" in lines
    assert steps["verify lowrank"] == {"not_run": "the step was not asked for"}


def test_it_says_where_and_how(result):
    found, *_ = result
    assert found["machine"]["gpu"] is None and found["versions"]["torch"] == torch.__version__
    assert found["command"].startswith(
        "python benchmarks/gpu.py --work WORK --shape demo --precision fp32 --device cpu"
    )
    assert found["steps"]["build weights"]["command"].startswith("eas-export build --ckpt WORK/checkpoint-demo ")
    assert str(result[2]) not in json.dumps(found["steps"])


def test_without_time_what_is_done_stays_and_the_rest_says_why(result):
    before, _, work = result
    assert started(work, "--minutes", "0").returncode == 0
    after = json.loads((work / "gpu_demo_fp32_8.json").read_text())["steps"]
    assert {name: after[name] for name in RAN} == {name: before["steps"][name] for name in RAN}
    assert after["build lowrank"] == {"not_run": "the step takes about 10 s, and 0 s were left"}
    assert after["verify lowrank"] == {"not_run": "the step needs 'build lowrank', which was not run"}


def test_a_bundle_that_differs_is_not_timed():
    records = {step.name: {"report": {}} for step in ON_GPU}
    timed = next(step for step in ON_GPU if step.name == "bench lowrank")
    assert timed.reason_against(records, 1000) is None
    records["verify lowrank"]["report"] = {"verdict": "differs"}
    assert timed.reason_against(records, 1000) == "'verify lowrank' says that the bundle differs"
    records["verify lowrank"] = {"not_run": "the step was ended after 100 s"}
    assert timed.reason_against(records, 1000) is None


def test_a_step_that_takes_too_long_is_ended():
    step = gpu.Step("slow", ("-c", "import time; time.sleep(60)"), 0)
    assert gpu.run(step, 1, SETTINGS)["not_run"] == "the step was ended after 1 s"


@pytest.mark.parametrize("step", ON_GPU[1:], ids=lambda step: step.name)
def test_its_commands_exist(step):
    program, command, *arguments = step.command
    context = cli.get_command(None, command).make_context(command, arguments)
    assert program == "eas-export" and set(context.params.get("against") or ()) <= set(BASELINES)


def test_wheels_in_parts_are_joined_and_imported_from(tmp_path):
    wheels, whole = tmp_path / "wheels", tmp_path / "probe_in_parts-1.0-py3-none-any.whl"
    wheels.mkdir()
    info = "probe_in_parts-1.0.dist-info"
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("probe_in_parts.py", "HERE = 1")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: probe-in-parts\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    subprocess.run(["split", "-b", "300", str(whole), f"{wheels / whole.name}."], check=True)
    assert len([*wheels.iterdir()]) > 1
    assert (gpu.install(wheels, tmp_path) / "probe_in_parts.py").read_text() == "HERE = 1"


def test_without_a_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, str(SCRIPT), "--work", str(tmp_path)], env=SETTINGS, capture_output=True)
    assert done.returncode == 1 and b"there is no GPU here" in done.stderr and not [*tmp_path.iterdir()]
