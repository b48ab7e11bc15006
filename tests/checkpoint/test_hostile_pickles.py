"""Small pickles that would grow large, or that replace a method of what is read: refused or harmless, in Lightning files and in all others."""

import tracemalloc
import zipfile
from pathlib import Path

import pytest

from eas_export.checkpoint.keys import Key
from eas_export.checkpoint.lightning import read_lightning
from eas_export.checkpoint.restricted_unpickler import LONGEST_TEXT, MOST_COPIED
from eas_export.checkpoint.torch_zip import read_torch_zip
from eas_export.core.errors import UserError

TABLE = {"w": Key("w", (3,))}
STATE_DICT = b"\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R"  # an empty OrderedDict


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def write(folder: Path, pickled: bytes) -> Path:
    path = folder / "last.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04" + pickled + b".")
        archive.writestr("archive/version", "3")
    return path


def doubled(times: int) -> bytes:
    """PosixPath(x, x) of the last result, so many times."""
    pickled = text("pathlib") + text("PosixPath") + b"\x93\x94" + text("x" * 64) + b"\x94"
    for memo in range(1, times + 1):
        last = b"j" + memo.to_bytes(4, "little")
        pickled += b"0j\x00\x00\x00\x00" + last + last + b"\x86R\x94"
    return pickled


def test_a_path_of_paths_stays_short(tmp_path):
    path = write(tmp_path, doubled(40))
    tracemalloc.start()
    assert len(read_torch_zip(path)) <= LONGEST_TEXT
    with pytest.raises(UserError, match="no named tensors"):
        read_lightning(path, TABLE)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_a_set_of_sets_is_copied_so_often_and_no_more(tmp_path):
    """A list of a thousand numbers, copied into a set again and again."""
    copy = b"0h\x00h\x01\x85R"
    pickled = text("builtins") + text("set") + b"\x93\x940](" + b"K\x01" * 1000 + b"e\x94"
    assert read_torch_zip(write(tmp_path, pickled + copy)) == [1] * 1000
    with pytest.raises(UserError, match=f"more than {MOST_COPIED} items are copied"):
        read_torch_zip(write(tmp_path, pickled + copy * (MOST_COPIED // 1000 + 1)))


@pytest.mark.parametrize("method", ["items", "get", "__class__"])
def test_a_state_dict_keeps_its_methods(tmp_path, method):
    spoilt = STATE_DICT + b"}" + text(method) + b"K\x05sb"
    with pytest.raises(UserError, match="the checkpoint has no named tensors"):
        read_lightning(write(tmp_path, b"}(" + text("state_dict") + spoilt + b"u"), TABLE)
    with pytest.raises(UserError, match="the checkpoint has no named tensors"):
        read_lightning(write(tmp_path, spoilt), TABLE)
