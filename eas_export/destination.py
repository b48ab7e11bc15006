"""Where a bundle goes: checked before any work, and taken whole or not at all. Only a bundle is ever replaced."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .bundle import MANIFEST
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


def check_destination(out: Path, sources: Iterable[Path]) -> None:
    """Raise UserError unless a bundle can be put at `out`: nothing is there, or an empty folder, or a bundle (whole or not) that
    holds none of the sources."""
    if os.path.lexists(out) and not (out / MANIFEST).is_file() and not _is_empty_folder(out):
        raise UserError("it exists and is no bundle", where=out, fix="choose another --out: only bundles are replaced")
    inside = [path for path in sources if out.resolve() in path.resolve().parents]
    if inside:
        raise UserError(
            f"it holds {inside[0].name}, which the bundle is built from", where=out, fix="choose another --out"
        )
    parent = next(folder for folder in out.absolute().parents if folder.exists())
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
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            out.rename(old / "bundle")
            try:
                folder.rename(out)
            except OSError:
                (old / "bundle").rename(out)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
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


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
