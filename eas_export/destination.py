"""Where a bundle goes: checked before any work, and taken whole or not at all. Only a bundle is ever replaced."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .bundle import PARTS, looks_like_bundle
from .errors import UserError

CANNOT_WRITE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
)


def check_destination(out: Path) -> None:
    """Raise UserError unless a bundle can be put at `out`: nothing is there, or an empty folder, or a bundle (whole or not) with
    nothing else in it."""
    if out.exists() and not _is_empty_folder(out):
        if not looks_like_bundle(out):
            raise UserError(
                "it exists and is no bundle", where=out, fix="choose another --out: only bundles are replaced"
            )
        foreign = [path.name for path in sorted(out.iterdir()) if not any(path.match(part) for part in PARTS)]
        if foreign:
            raise UserError(
                f"it holds {foreign[0]}, which is no part of a bundle",
                where=out,
                fix="move that, or choose another --out",
            )
    parent = next(folder for folder in out.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        said = "cannot be written to" if parent.is_dir() else "is not a folder"
        raise UserError(f"no folder can be made there: {parent} {said}", where=out, fix="choose another --out")


@contextmanager
def new_bundle_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends well, and vanishes when it does not. What was at
    `out` is removed only then. Raises UserError where the disk is full or cannot be written."""
    folder = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        yield folder
        folder.chmod(0o755)
        if out.exists() and not _is_empty_folder(out):
            _replace(out, folder)
        else:
            folder.rename(out)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise UserError(
            f"the bundle cannot be written ({error.strerror})",
            where=out,
            fix="free some space, or choose another --out",
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _replace(out: Path, folder: Path) -> None:
    """Put `folder` in the place of `out`; whatever interrupts, one of the two is there afterwards."""
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
    kept = old / out.name
    try:
        out.rename(kept)
        folder.rename(out)
    except BaseException:
        if kept.exists() and not out.exists():
            kept.rename(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
