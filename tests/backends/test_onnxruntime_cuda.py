"""ONNX Runtime on a GPU, with a stand-in for the library: what it does not cover there is said."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eas_export.backends.onnxruntime.cuda import Refused, _open, import_for
from eas_export.core.errors import UserError

CUDA = torch.device("cuda", 0)


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
    assert session and on_cpu == "ONNX Runtime rejects the graph (TensorScatter is on the CPU)"
    with pytest.raises(Refused, match="opened the graph on CPUExecutionProvider, not on CUDAExecutionProvider"):
        _open(Ort(opened_on="CPUExecutionProvider"), Path("decode.onnx"), CUDA)


def test_onnxruntime_without_cuda_is_refused(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match="has no CUDAExecutionProvider here, only CPUExecutionProvider"):
        import_for(CUDA)
