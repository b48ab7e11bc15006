"""Where a comparison's own files lie while it lasts."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..system.scratch import scratch_folder


@contextmanager
def scratch_place(bundle: Bundle, scratch: Path | None) -> Iterator[Path]:
    """An empty folder for this bundle in `scratch`, by default beside it, which is gone in the end. What a comparison that was killed has
    left there goes, too. Raises UserError where it cannot be made, and while another comparison of the bundle is going on."""
    folder = scratch_folder(bundle.path) if scratch is None else scratch
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(
            "it is no folder that can be written to", where=f"--scratch {folder}", fix="give another folder"
        )
    place = folder / f".{bundle.path.resolve().name}.bench"
    try:
        place.mkdir(exist_ok=True)
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"it cannot be made ({error.strerror})", where=place, fix="give another --scratch") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "another comparison of this bundle is going on, and both would be slower for it"
            raise UserError(what, where=place, fix="wait for it") from None
        if not place.exists():  # another comparison has just ended
            place.mkdir()
        _empty(place)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
