"""Reading torch's zip format without running anything from it."""

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eas_export.checkpoint.lazy_tensor import LazyTensor
from eas_export.checkpoint.torch_zip import PlainObject, read_torch_zip, state_dict_of
from eas_export.core.errors import UserError


def saved(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "file.pth"
    torch.save(value, path)
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8]
)
def test_tensors_come_back_lazily_and_equal(tmp_path, dtype):
    plain = (torch.arange(24) % 7).to(dtype).reshape(2, 3, 4)
    tensors = {
        "plain": plain,
        "transposed": plain.transpose(0, 2),
        "slice": plain[1:, 1],
        "empty": plain[:0],
        "scalar": plain[1, 2, 3],
    }
    read = read_torch_zip(saved(tmp_path, tensors))
    for name, tensor in tensors.items():
        assert isinstance(read[name], LazyTensor)
        assert (read[name].shape, read[name].dtype) == (tuple(tensor.shape), dtype)
        assert read[name].read().equal(tensor)


def test_plain_data_and_namespace(tmp_path):
    args = argparse.Namespace(skip_list="[1]", temperature=10.0, options=["A"])
    value = {"model": OrderedDict(w=nn.Parameter(torch.ones(3))), "epoch": 19, "args": args}
    read = read_torch_zip(saved(tmp_path, value))
    assert read["epoch"] == 19 and vars(read["args"]) == vars(args)
    assert not isinstance(read["args"], argparse.Namespace) and isinstance(read["args"], PlainObject)
    assert read["model"]["w"].read().equal(torch.ones(3))


def test_plain_things_that_training_scripts_save(tmp_path):
    value = {
        "args": argparse.Namespace(
            out=Path("a/b"), device=torch.device("cuda:0"), best=np.float32(0.5), layers={1, 2}, kind=torch.float16
        ),
        "shape": torch.Size([2, 3]),
        "counts": defaultdict(int, a=1),
        "model": {"w": torch.ones(2)},
    }
    read = read_torch_zip(saved(tmp_path, value))
    assert (read["args"].out, read["args"].device, sorted(read["args"].layers)) == ("a/b", "cuda/0", [1, 2])
    assert read["shape"] == [2, 3] and read["counts"]["a"] == 1 and read["model"]["w"].read().equal(torch.ones(2))
    assert isinstance(read["args"].best, PlainObject)


def test_objects_that_hold_themselves_are_no_trap(tmp_path):
    knot = argparse.Namespace(w=torch.ones(2))
    knot.itself = knot
    path = saved(tmp_path, knot)
    assert set(state_dict_of(read_torch_zip(path), path)) == {"w"}
    for _ in range(60):  # shared twice at every level: 2^60 paths through 60 objects
        knot = argparse.Namespace(a=knot, b=knot)
    path = saved(tmp_path, knot)
    assert len(state_dict_of(read_torch_zip(path), path)) == 1


def test_torchscript_archive_gives_its_state_dict(tmp_path):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = Inner()
            self.blocks = nn.Sequential(nn.Conv2d(3, 4, 2), nn.LayerNorm(4))
            self.proj = nn.Parameter(torch.randn(3, 5))

        def forward(self, x):
            return self.visual(x)

    module = Outer().half()
    path = tmp_path / "ViT.pt"
    torch.jit.save(torch.jit.script(module), path)
    tensors = state_dict_of(read_torch_zip(path), path)
    assert set(tensors) == set(module.state_dict())
    for name, tensor in module.state_dict().items():
        assert tensors[name].read().equal(tensor)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"model": {"w": p}}, lambda p: [torch.ones(2), {"a": p}]])
def test_a_pickle_that_would_run_code_does_not(tmp_path, wrap):
    trace = tmp_path / "it_ran"
    path = saved(tmp_path, wrap(Payload(trace)))
    with pytest.raises(UserError, match=r"asks for posix\.system, which was not run"):
        read_torch_zip(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "torch.nn.Linear",
        "torch._utils._rebuild_tensor",
        "operator.attrgetter",
    ],
)
def test_no_name_outside_the_table_is_found(tmp_path, name):
    module, attribute = name.rsplit(".", 1)
    path = saved_pickle(tmp_path, f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(UserError, match="which was not run"):
        read_torch_zip(path)


def saved_pickle(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "hand.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hand/data.pkl", data)
        archive.writestr("hand/data/0", b"\0" * 16)
    return path


def rebuild(key: str, count: int, offset: int, size: tuple, stride: tuple) -> bytes:
    """A pickle of one float32 tensor, written by hand."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (
                ("storage", torch.FloatStorage, key, "cpu", count),
                offset,
                size,
                stride,
                False,
                OrderedDict(),
            )

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"w": Tensor()})
    return buffer.getvalue()


def test_a_tensor_inside_its_storage_is_read(tmp_path):
    read = read_torch_zip(saved_pickle(tmp_path, rebuild("0", 4, 1, (3,), (1,))))
    assert read["w"].read().equal(torch.zeros(3))


@pytest.mark.parametrize(
    "key, count, offset, size, stride",
    [
        ("0", 4, 2, (3,), (1,)),  # past its storage
        ("0", 400, 0, (3,), (1,)),  # the storage is longer than the member
        ("0", 4, -1, (3,), (1,)),
        ("0", 4, 0, (1 << 40, 1 << 40), (1, 1)),
        ("0", 4, 0, (2,), (1, 1)),
        ("0", 4, 0, (1 << 40,), (0,)),  # one element that claims to be many
        ("0", 4, 0, (1 << 32, 1 << 32), (0, 0)),  # 2^64 of them: none, as torch counts
        ("0", 4, 0, (1 << 62, 1 << 62, 0), (0, 0, 0)),
        ("0", 4, 0, (1,), (1 << 70,)),
        ("0", 4, 0, (1 << 40,) * 100_000, (0,) * 100_000),
        ("../data.pkl", 4, 0, (2,), (1,)),
        ("7", 4, 0, (2,), (1,)),  # no such storage
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, key, count, offset, size, stride):
    with pytest.raises(UserError, match=r"damaged|missing"):
        read_torch_zip(saved_pickle(tmp_path, rebuild(key, count, offset, size, stride)))


def test_files_of_other_kinds_and_every_truncation(tmp_path):
    whole = saved(tmp_path, {"w": torch.arange(100.0)}).read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="the file is empty"):
        read_torch_zip(path)
    with pytest.raises(UserError, match="is a folder"):
        read_torch_zip(tmp_path)
    for size in [1, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="whole torch checkpoint"):
            read_torch_zip(path)
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(UserError, match="whole torch checkpoint"):
        read_torch_zip(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        read_torch_zip(path)
    with pytest.raises(UserError, match="no such file"):
        read_torch_zip(tmp_path / "absent.pth")


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    """The loader maps the file: a tensor of 64 MB costs no memory until it is read."""
    import psutil

    path = saved(tmp_path, {"w": torch.ones(1 << 24)})
    process = psutil.Process()
    before = process.memory_full_info().uss
    read = read_torch_zip(path)
    assert process.memory_full_info().uss - before < 1 << 22
    assert float(read["w"].read().sum()) == 1 << 24


SHARED_TWICE = (
    b")" + b"2\x86" * 60
)  # a tuple that holds another twice, which holds another twice: 2^60 to hash, or to write down


@pytest.mark.parametrize(
    "data",
    [
        b"}" + SHARED_TWICE + b"K\x01s.",  # a table's key
        b"}(" + SHARED_TWICE + b"K\x01u.",
        b"(" + SHARED_TWICE + b"K\x01d.",
        b"\x8f(" + SHARED_TWICE + b"\x90.",  # in a set
        b"(" + SHARED_TWICE + b"\x91.",
        b"ccollections\nOrderedDict\n](]" + SHARED_TWICE + b"aK\x01ae\x85R.",
        SHARED_TWICE + b"Q.",  # a reference to a storage
    ],
)
def test_what_is_shared_many_times_is_never_gone_through(tmp_path, data):
    with pytest.raises(UserError, match=r"data\.pkl is damaged"):
        read_torch_zip(saved_pickle(tmp_path, data))


def test_a_device_of_what_is_shared_many_times_is_no_trap(tmp_path):
    assert read_torch_zip(saved_pickle(tmp_path, b"ctorch\ndevice\n" + SHARED_TWICE + b"\x85R.")) == ""


def test_a_length_in_a_pickle_takes_no_memory(tmp_path):
    with pytest.raises(UserError, match=r"data\.pkl is damaged"):
        read_torch_zip(saved_pickle(tmp_path, b"\x96" + (1 << 33).to_bytes(8, "little") + b"."))


def test_a_pickle_gives_attributes_to_objects_only(tmp_path):
    tensor = rebuild("0", 4, 0, (4,), (1,))[:-1]  # {"w": tensor} without the stop
    for thing in (tensor, b"cargparse\nNamespace\n", b"ctorch\nSize\n"):
        with pytest.raises(UserError, match="attributes for a "):
            read_torch_zip(saved_pickle(tmp_path, thing + b"N}X\x05\x00\x00\x00shapeK\x05s\x86b."))


def test_names_of_tensors_are_text(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2), 10**5000: torch.ones(2), None: torch.ones(2)})
    assert set(state_dict_of(read_torch_zip(path), path)) == {"w"}
