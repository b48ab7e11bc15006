"""TensorRT on its GPU: what is built for, and where what its kernels were measured at is kept. No GPU here: one is made believe."""

from types import SimpleNamespace

import pytest
import torch

from eas_export.backends.tensorrt import tensorrt
from eas_export.core.options import BuildOptions
from eas_export.system.hashing import cache_folder


class Config:
    """A builder's, which knows what it was given."""

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: self.cache)


@pytest.fixture
def target_on(monkeypatch, tmp_path):
    """target_on(a GPU's name) -> what is built for there"""
    trt = SimpleNamespace(__version__="11.4.0.106")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tensorrt, "FLAVOR", SimpleNamespace(load=lambda: trt))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))

    def target(name: str):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
        return tensorrt.target(BuildOptions())

    return target


def test_gpus_of_one_compute_capability_are_two_targets(target_on):
    l4, l40 = target_on("NVIDIA L4"), target_on("NVIDIA L40S")
    assert (l4.gpu, l40.gpu) == ("NVIDIA L4", "NVIDIA L40S") and l4.compute_capabilities == l40.compute_capabilities


def test_each_gpu_has_its_own_timings(target_on):
    l4, l40, config = target_on("NVIDIA L4"), target_on("NVIDIA L40S"), Config()
    for target in (l4, l40):
        keep = tensorrt.configure(None, config, target)
        assert config.cache == b""
        config.cache = target.gpu.encode()
        keep()
    for target, measured in ((l4, b"NVIDIA L4"), (l40, b"NVIDIA L40S")):
        tensorrt.configure(None, config, target)
        assert config.cache == measured
    names = sorted(path.name for path in cache_folder().iterdir())
    assert names == ["timing-11.4.0.106-NVIDIA-L4.cache", "timing-11.4.0.106-NVIDIA-L40S.cache"]
