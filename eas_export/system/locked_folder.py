"""A folder that one process at a time works in."""

import fcntl
import os
import shutil
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from ..core.errors import UserError


def lock_folder(folder: Path, busy: Callable[[str], UserError], lock_file: str = "") -> AbstractContextManager[object]:
    """Lock `folder`, created if missing, until the returned context or the process ends.

    lock_file  a file in the folder that carries the lock and its holder, "process id on host"; empty: the folder itself carries the lock
    busy       (holder, empty without a lock file) -> the error to raise when another process holds the lock

    Raises OSError where the folder cannot be created, or its file system has no locks.
    """
    path, flags = folder / lock_file, os.O_RDWR | os.O_CREAT if lock_file else os.O_RDONLY | os.O_DIRECTORY
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            try:
                handle = os.open(path, flags, 0o666)
                opened.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(handle), os.stat(path)):
                    continue
            except FileNotFoundError:  # the last holder removed it in the meantime
                continue
            except BlockingIOError:
                raise busy(os.read(handle, 100).decode(errors="replace") if lock_file else "") from None
            if lock_file:
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()} on {os.uname().nodename}".encode())
            return opened.pop_all()


def clear(folder: Path, keep: Container[str] = ()) -> None:
    """Remove everything in the folder except these names."""
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
