"""What `bench` does on a GPU only: a PyTorch step as a CUDA graph, with stand-ins for a GPU's functions, and which baseline is the bundle itself."""

from contextlib import ExitStack, nullcontext
from types import SimpleNamespace

import pytest
import torch
from conftest import golden_case

from eas_export.bench.baseline_bundles import BaselineBundles
from eas_export.bench.baselines import choose, subjects
from eas_export.bench.decoder import BASELINES
from eas_export.bench.run import _open
from eas_export.bench.runners import CapturedSession
from eas_export.bench.settings import Workload
from eas_export.core.errors import UserError
from eas_export.core.progress import Progress

CASE = golden_case("first")


def test_a_step_is_captured_once_and_replayed(monkeypatch):
    calls = []
    graph = SimpleNamespace(replay=lambda: calls.append("replay"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda given: nullcontext(calls.append("capture")))

    def module(inputs):
        calls.append("eager")
        return {"y": inputs["x"] + 1}

    x, y = torch.zeros(1), torch.zeros(1)
    step = CapturedSession(module, None).bind({"x": x}, {"y": y})
    for _ in range(3):
        step()
    assert calls == ["eager", "wait", "capture", "eager", "replay", "replay"] and y.item() == 1


def test_pytorch_stands_for_the_bundle_where_onnxruntime_runs_on_cpus_only(bundle_of, tmp_path):
    bundle = bundle_of(CASE)
    assert subjects(bundle.manifest, "cpu") == ("onnxruntime-weights",)
    assert subjects(bundle.manifest, "cuda") == ("onnxruntime-weights", "pytorch-weights")
    bundles = BaselineBundles(bundle, None, Workload(prompt_tokens=6, new_tokens=3), tmp_path, Progress())
    own = ("pytorch-captured-weights", "pytorch-weights")  # the first one does not run here
    with ExitStack() as processes:
        children, missing = _open(processes, bundles, choose(BASELINES, own, ()), own)
        assert next(iter(children)) == "pytorch-weights" and "captured on a GPU" in missing["pytorch-captured-weights"]
        with pytest.raises(UserError, match="the bundle itself cannot be run: CUDA graphs are captured on a GPU"):
            _open(processes, bundles, choose(BASELINES, own[:1], ("pytorch-weights",)), own[:1])
