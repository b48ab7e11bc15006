"""One process at a time works in a folder, whether the folder itself carries the lock or a file in it."""

import os
import shutil

import pytest

from eas_export.core.errors import UserError
from eas_export.system import locked_folder
from eas_export.system.locked_folder import lock_folder


def busy(holder: str) -> UserError:
    return UserError(f"held by {holder or 'somebody'}", where="here", fix="wait")


@pytest.mark.parametrize("lock_file", ["", "lock"])
def test_a_lock_is_held_until_its_context_ends(tmp_path, lock_file):
    folder, holder = tmp_path / "a" / "b", f"{os.getpid()} on {os.uname().nodename}" if lock_file else "somebody"
    for _ in range(2):
        with lock_folder(folder, busy, lock_file), pytest.raises(UserError, match=f"held by {holder} "):
            lock_folder(folder, busy, lock_file)


@pytest.mark.parametrize("lock_file", ["", "lock"])
def test_a_folder_that_its_last_holder_removed_is_made_anew(tmp_path, monkeypatch, lock_file):
    """Between opening and locking: what would be locked is no longer what others find there."""
    flock, folder, calls = locked_folder.fcntl.flock, tmp_path / "a", []

    def late(handle, how):
        calls.append(how)
        if len(calls) < 3:
            shutil.rmtree(folder)
        if len(calls) == 2:
            folder.mkdir()
            (folder / "lock").touch()
        flock(handle, how)

    monkeypatch.setattr(locked_folder.fcntl, "flock", late)
    with lock_folder(folder, busy, lock_file), pytest.raises(UserError, match="held by"):
        lock_folder(folder, busy, lock_file)
    assert len(calls) == 4
