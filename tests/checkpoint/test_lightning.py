"""Lightning's checkpoints: what training leaves in them is let pass, and none of it is imported or run."""

import builtins
import functools
import io
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from eas_export.checkpoint.keys import Key
from eas_export.checkpoint.lightning import read_lightning
from eas_export.checkpoint.restricted_unpickler import Inert
from eas_export.checkpoint.torch_zip import read_torch_zip
from eas_export.core.errors import UserError

TABLE = {"w": Key("w", (3,)), "b": Key("b", (2,))}
GONE = "pytorch_lightning_of_long_ago.callbacks"


@pytest.fixture
def foreign(monkeypatch):
    """foreign(name, *bases, **body): a class of a module that is there while the file is written, and nowhere afterwards."""
    module = types.ModuleType(GONE)
    monkeypatch.setitem(sys.modules, "pytorch_lightning_of_long_ago", types.ModuleType("pytorch_lightning_of_long_ago"))
    monkeypatch.setitem(sys.modules, GONE, module)

    def make(name: str, *bases: type, **body) -> type:
        made = type(name, bases, {"__module__": GONE} | body)
        setattr(module, name, made)
        return made

    yield make


def write(tmp_path: Path, monkeypatch, **more) -> Path:
    path = tmp_path / "last.ckpt"
    weights = OrderedDict(w=torch.arange(3.0), b=torch.ones(2))
    torch.save({"epoch": 3, "state_dict": weights, "hyper_parameters": {"config": {"num_heads": 4}}} | more, path)
    monkeypatch.undo()
    assert GONE not in sys.modules
    return path


def check(path: Path) -> None:
    tensors, parameters = read_lightning(path, TABLE)
    assert set(tensors) == {"w", "b"} and tensors["w"].read().equal(torch.arange(3.0))
    assert parameters["num_heads"] == 4
    assert GONE not in sys.modules


def test_what_training_leaves_behind_is_let_pass(tmp_path, foreign, monkeypatch):
    callback = foreign("ModelCheckpoint", monitor="val")
    by_dict, by_args = foreign("State"), foreign("Reduced", __reduce__=lambda self: (type(self), (1, "two"), {"a": 1}))
    slots = foreign("Slots", __slots__=("a", "b"))
    new_args = foreign("Tuple", tuple)
    state, slotted = by_dict(), slots()
    state.a, state.itself, slotted.a = 1, state, torch.ones(2)
    more = {
        "callbacks": {callback: {"best_model_score": torch.tensor(0.7)}},
        "objects": [state, by_args(), slotted, new_args((1, 2))],
        "partial": functools.partial(int, base=2),
        "containers": [foreign("Set", set)({1}), foreign("List", list)([1, 2]), foreign("Dict", OrderedDict)(a=1)],
        "enum member": {by_args(): 1},
        "method": "text".upper,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"params": [0, 1]}]}],
    }
    check(write(tmp_path, monkeypatch, **more))


def test_a_mapping_of_an_unknown_class_keeps_its_items(tmp_path, foreign, monkeypatch):
    """As Sacred's read-only config is one."""
    read_only = foreign("ReadOnlyDict", dict)
    path = write(tmp_path, monkeypatch, hyper_parameters=read_only(config=read_only(num_heads=4)))
    check(path)


def test_other_readers_refuse_what_they_do_not_know(tmp_path, foreign, monkeypatch):
    path = write(tmp_path, monkeypatch, callbacks=[foreign("ModelCheckpoint")()])
    with pytest.raises(UserError, match=f"asks for {GONE}.ModelCheckpoint, which was not run"):
        read_torch_zip(path)


class Run:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["os.system", "eval", "exec", "subprocess", "open", "chain", "getattr", "build"])
def test_nothing_is_run(tmp_path, kind):
    trace = tmp_path / "it_ran"
    code = f"open({str(trace)!r}, 'w').close()"
    shell = Run(os.system, f"touch {trace}")
    harm = {
        "os.system": shell,
        "eval": Run(builtins.eval, code),
        "exec": Run(builtins.exec, code),
        "subprocess": Run(subprocess.check_output, ["touch", str(trace)]),
        "open": Run(builtins.open, str(trace), "w"),
        "chain": Run(functools.reduce, Run(getattr, Run(__import__, "os"), "system"), [shell, shell]),
        "getattr": Run(builtins.getattr, Run(builtins.__import__, "os"), "system"),
        "build": Run(functools.partial, os.system, shell),
    }[kind]
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "callbacks": {"x": harm}, "hyper_parameters": harm}, path)
    tensors, parameters = read_lightning(path, TABLE)
    assert set(tensors) == {"w"} and parameters == {}
    assert not trace.exists()


def by_hand(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "hand.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hand/data.pkl", data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"cposix\nsystem\n(S'touch it_ran'\ntR.",  # REDUCE
        b"(S'touch it_ran'\niposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nS'touch it_ran'\no.",  # OBJ
        b"cposix\nsystem\n(S'touch it_ran'\nt\x81.",  # NEWOBJ
        b"cposix\nsystem\n)R}S'__class__'\ncposix\nsystem\nsb.",  # BUILD
        b"cposix\nsystem\n)R(S'__setstate__'\ncposix\nsystem\ndb(S'touch it_ran'\ntb.",
        b"\x8c\x08builtins\x8c\x15object.__subclasses__\x93)R.",  # STACK_GLOBAL of a dotted name
    ],
)
def test_every_way_to_call_makes_an_object_that_does_nothing(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    made = read_torch_zip(by_hand(tmp_path, data), unknown=Inert)
    assert type(made) is Inert and made == made and not made.keys() and not vars(made)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cposix\nsystem\n}S'__init__'\nS'x'\nsb.",  # attributes for the stand-in itself
        b"cposix\nsystem\n}S'a'\nK\x01ssb.",
        b"cposix\nsystem\nS'a'\nK\x01s.",  # items for it
    ],
)
def test_the_stand_in_itself_is_out_of_reach(tmp_path, data):
    with pytest.raises(UserError, match="damaged"):
        read_torch_zip(by_hand(tmp_path, data), unknown=Inert)


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "last.ckpt"
    for other in ([torch.ones(1)], {"state_dict": [torch.ones(1)]}):
        torch.save(other, path)
        with pytest.raises(UserError, match="no named tensors"):
            read_lightning(path, TABLE)
    torch.save({"state_dict": {"w": 1}}, path)
    with pytest.raises(UserError, match="no named tensors"):
        read_lightning(path, TABLE)
    buffer = io.BytesIO()
    pickle.dump({"state_dict": {}}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="whole torch checkpoint"):
        read_lightning(path, TABLE)
