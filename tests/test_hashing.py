"""Digests are remembered for the very file that was hashed, and only to save time."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from eas_export.system.hashing import remembered_sha256, sha256_of


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "eas-export" / "digests.json"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    settle(path)
    return path


def settle(path: Path, seconds: float = 60) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_unchanged_file_is_not_read_again(file, memory):
    seen = []
    assert remembered_sha256(file, seen.append) == digest(b"one") and memory.exists()
    times = os.stat(file)
    file.write_bytes(b"two")
    os.utime(
        file, ns=(times.st_atime_ns, times.st_mtime_ns)
    )  # hidden on purpose: only so does it show that nothing was read
    assert remembered_sha256(file, seen.append) == digest(b"one") and seen == [3, 3]
    assert sha256_of(file) == digest(b"two")  # what must be sure reads


def test_a_changed_file_is(file, tmp_path):
    remembered_sha256(file)
    file.write_bytes(b"two")
    assert remembered_sha256(file) == digest(b"two")
    settle(file)
    remembered_sha256(file)
    other = tmp_path / "other"  # another file in its place, as old and as large
    other.write_bytes(b"six")
    settle(other)
    times = os.stat(file)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    assert remembered_sha256(file) == digest(b"six")


def test_a_file_that_has_just_changed_is_not_remembered(file, memory):
    """It could change again within one tick of the clock that its time comes from."""
    file.write_bytes(b"new")
    assert remembered_sha256(file) == digest(b"new") and not memory.exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"x": 1}', "[" * 100_000])
def test_a_damaged_memory_is_forgotten(file, memory, damage):
    memory.parent.mkdir(parents=True)
    memory.write_text(damage)
    assert remembered_sha256(file) == digest(b"one") and remembered_sha256(file) == digest(b"one")


def test_a_memory_that_cannot_be_written_is_done_without(file, memory):
    memory.parent.parent.write_text("a file where the folder would be")
    assert remembered_sha256(file) == digest(b"one")
