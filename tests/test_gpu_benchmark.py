"""benchmarks/gpu.py, with the CPU where a GPU would be: the whole of it once, and what only a GPU does with stand-ins."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import gpu
import pytest
import torch
from gpu import run_part
from gpu_measure import WARM, timed
from gpu_part import Given
from gpu_report import ratios, report
from gpu_sessions import CapturedSession

from eas_export.backends.onnxruntime.cuda import Refused, _open, import_for
from eas_export.core.errors import UserError

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
RESULTS = SCRIPT.parent / "results"
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The result that all parts leave, what they print, and their folder."""
    work, out = tmp_path_factory.mktemp("gpu"), tmp_path_factory.mktemp("out")
    before = sorted(RESULTS.iterdir())
    options = ["--device", "cpu", "--shape", "demo", "--layers", "2", "--precision", "fp32", "--work", str(work)]
    settings = os.environ | {"OUT": str(out), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}
    command = [sys.executable, str(SCRIPT), "--part", "all", *options]
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(RESULTS.iterdir()) == before
    result = json.loads((work / "gpu_demo_fp32.json").read_text())
    assert result == json.loads((out / "gpu_demo_fp32.json").read_text())
    assert result == json.loads(done.stdout.splitlines()[-1])
    return result, done.stdout, work


def test_parity_comes_before_speed(run):
    result, *_ = run
    assert result["parity_failures"] == 0 and result["bars"] == {"parity_failures": 0}
    for part, modes in {
        "pytorch": ["lowrank", "weights", "floor", "unskipped"],
        "onnxruntime": ["weights", "lowrank", "unskipped"],
    }.items():
        found = result["parts"][part]
        assert list(found["modes"]) == modes
        said = [what for what, _ in found["log"]]
        for mode in modes:
            assert found["modes"][mode]["parity"]["ok"]
            of_mode = [what for what in said if what.startswith(f"modes {mode} ")]
            assert of_mode[0] == f"modes {mode} parity"
            assert f"modes {mode} speed decode 1" in of_mode


def test_every_figure_is_there(run):
    parts = run[0]["parts"]
    for part in ("pytorch", "onnxruntime"):
        modes = parts[part]["modes"]
        assert set(modes["weights"]["speed"]) == {"vision", "prefill", "fold", "decode"}
        assert set(modes["weights"]["speed"]["decode"]) == {"1"}
        assert set(modes["lowrank"]["speed"]["decode"]) == {"1", "3"}
        assert set(modes["lowrank"]["speed"]["prefill"]) == {"8", "32"}
        for mode in modes.values():
            for rows, step in mode["speed"]["decode"].items():
                assert step["timed"] >= 20 and 0 < step["p50_seconds"] <= step["p90_seconds"]
                assert step["tokens_per_second"] == int(rows) / step["p50_seconds"]
                rate = step["bytes"] / step["p50_seconds"]
                assert step["share_of_copy"] == pytest.approx(rate / parts[part]["copy_bytes_per_second"])
    one = {name: mode["speed"]["decode"]["1"]["bytes"] for name, mode in parts["pytorch"]["modes"].items()}
    assert one["floor"] < one["weights"] < one["lowrank"] < one["unskipped"]  # folding leaves biases


def test_ratios_come_from_its_own_times(run):
    result, *_ = run
    modes = {name: part.get("modes", {}) for name, part in result["parts"].items()}
    assert result["ratios"] == ratios(modes)
    p50 = {n: mode["speed"]["decode"]["1"]["p50_seconds"] for n, mode in modes["pytorch"].items()}
    theirs = modes["onnxruntime"]["weights"]["speed"]["decode"]["1"]["p50_seconds"]
    assert result["ratios"]["pytorch weights"]["over_floor"] == p50["weights"] / p50["floor"]
    assert result["ratios"]["pytorch lowrank"]["over_unskipped"] == p50["lowrank"] / p50["unskipped"]
    assert result["ratios"]["onnxruntime weights"]["over_pytorch"] == theirs / p50["weights"]


def test_what_was_not_run_says_why(run):
    result, printed, _ = run
    for part in ("tensorrt-rtx", "tensorrt"):
        found = result["parts"][part]
        assert "modes" not in found
        assert found["not_run"].startswith(f"{part} engines run on a GPU, and this run is on the CPU")
        assert f"{part}: not run: {found['not_run']}" in printed.splitlines()
    assert result["machine"]["gpu"] is None and result["versions"]["torch"] == torch.__version__
    assert "--work DIR" in result["command"] and "/tmp" not in result["command"]


def test_a_part_whose_time_is_over_keeps_what_it_had(run):
    result, _, work = run
    given = Given(work, "demo", "fp32", CPU, minutes=0, sizes="tiny", layers=2, modes=("weights",))
    assert run_part("onnxruntime", given) == 0
    found = json.loads((work / "onnxruntime.json").read_text())
    assert found["stopped"] == "after 0 minutes"
    assert found["modes"] == result["parts"]["onnxruntime"]["modes"]


def test_what_differs_is_not_timed(run, tmp_path, monkeypatch, capsys):
    work = run[2]
    monkeypatch.setattr(gpu, "check_parity", lambda *_: {"ok": False, "cases": {"text": "the logits are not finite"}})
    given = Given(work, "demo", "fp32", CPU, minutes=8, sizes="tiny", layers=2, modes=("weights",))
    run_part("onnxruntime", given)
    assert "speed" not in json.loads((work / "onnxruntime.json").read_text())["modes"]["weights"]
    options = ["--shape", "demo", "--precision", "fp32"]
    assert report(list(gpu.PARTS), work, CPU, given.model, options, [tmp_path]) == 1
    assert "| onnxruntime | weights | DIFFERS: the logits are not finite |" in capsys.readouterr().out
    result = json.loads((tmp_path / "gpu_demo_fp32.json").read_text())
    assert result["parity_failures"] == 1 and "onnxruntime weights" not in result["ratios"]


def test_a_folder_holds_one_model(run):
    given = Given(run[2], "demo", "fp16", CPU, minutes=8, sizes="tiny", layers=2, modes=None)
    with pytest.raises(UserError, match=r"it was made with .*'fp32'.*, not .*'fp16'"):
        given.require_same_as_made()


def test_a_part_without_a_gpu_says_so(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    given = Given(tmp_path, "demo", "fp32", CUDA, minutes=8, sizes="tiny", layers=2, modes=None)
    assert run_part("pytorch", given) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["pytorch"]["not_run"].startswith("PyTorch sees no GPU here")


def test_what_nobody_expected_is_kept_and_ends_with_one(tmp_path, monkeypatch):
    def broken(part, given):
        raise ZeroDivisionError("by what")

    monkeypatch.setitem(gpu.PARTS, "pytorch", broken)
    given = Given(tmp_path, "demo", "fp32", CPU, minutes=8, sizes="tiny", layers=2, modes=None)
    assert run_part("pytorch", given) == 1
    assert json.loads((tmp_path / "pytorch.json").read_text())["error"] == "ZeroDivisionError: by what"


def test_a_step_is_captured_once_and_replayed(monkeypatch):
    calls = []
    graph = SimpleNamespace(replay=lambda: calls.append("replay"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda given: nullcontext(calls.append("capture")))

    def module(inputs):
        calls.append("eager")
        return {"y": inputs["x"] + 1}

    session, x, y = CapturedSession(module, None), torch.zeros(1), torch.zeros(1)
    step = session.bind({"x": x}, {"y": y})
    for _ in range(3):
        step()
    assert calls == ["eager", "wait", "capture", "eager", "replay", "replay"] and y.item() == 1
    calls.clear()
    session.run([({"x": x}, {"y": y})] * 2)
    assert calls == ["eager", "eager"]


def test_times_are_between_events_and_after_a_synchronisation(monkeypatch):
    calls = []

    class Event:
        def __init__(self, enable_timing: bool):
            assert enable_timing

        def record(self):
            calls.append("record")
            self.at = len(calls)

        def elapsed_time(self, end):
            assert calls[-1] == "wait"
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    assert timed(CUDA, lambda: calls.append("work"), 2) == [2.0, 2.0]
    assert calls == ["work"] * WARM + ["wait", "record", "work", "record", "work", "record", "wait"]


class Ort(SimpleNamespace):
    """An onnxruntime that refuses what is not all on the GPU."""

    __version__ = "0"

    class SessionOptions:
        def __init__(self):
            self.entries = {}

        def add_session_config_entry(self, key, value):
            self.entries[key] = value

    def InferenceSession(self, path, options, providers):
        if options.entries.get("session.disable_cpu_ep_fallback") == "1":
            raise RuntimeError("TensorScatter\nis on the CPU")
        return SimpleNamespace(get_providers=lambda: [self.opened_on or providers[0][0], "CPUExecutionProvider"])


def test_onnxruntime_says_what_its_cuda_kernels_do_not_cover():
    session, on_cpu = _open(Ort(opened_on=None), Path("decode.onnx"), CUDA)
    assert session and on_cpu == "ONNX Runtime refuses it (TensorScatter is on the CPU)"
    with pytest.raises(Refused, match="opened it on CPUExecutionProvider, not on CUDAExecutionProvider"):
        _open(Ort(opened_on="CPUExecutionProvider"), Path("decode.onnx"), CUDA)


def test_onnxruntime_without_cuda_is_refused(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match="has no CUDAExecutionProvider here, only CPUExecutionProvider"):
        import_for(CUDA)
