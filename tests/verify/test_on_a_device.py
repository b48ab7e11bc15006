"""Verification on another device than the CPU; "cpu:0" is one for all code of ours, and needs no GPU."""

import pytest
import torch
from conftest import golden_case

import eas_export
from eas_export.verify.compare import Request, compare_bundle
from eas_export.verify.report import Verdict

CASE = golden_case("first")


def test_backends_run_on_the_device_and_blocks_are_left_out(bundle_of):
    request = Request(CASE.checkpoint, "x", ("pytorch", "onnxruntime"), device=torch.device("cpu", 0))
    report = compare_bundle(bundle_of(CASE), request)
    assert report.verdict == Verdict.SAME and report.blocks == ()
    on_it = {step.name: step.what for step in report.steps if step.name in request.backends}
    assert all(f"the bundle on {name} on cpu: " in what for name, what in on_it.items()) and len(on_it) == 2


def test_without_a_gpu_cuda_is_refused(refused, bundle_of):
    line = refused("verify", bundle_of(CASE).path, "--device", "cuda")
    assert "PyTorch sees no GPU here (--device cuda)" in line


@pytest.mark.parametrize("verb", [eas_export.verify, eas_export.bench])
def test_another_device_is_no_cpu_in_silence(verb, bundle_of):
    with pytest.raises(eas_export.UserError, match="unknown device 'tpu'"):
        verb(bundle_of(CASE), device="tpu")
