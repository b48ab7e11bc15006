"""Where a bundle goes, checked before any work. Only a bundle is ever replaced."""

import os
from pathlib import Path

from ..bundle.bundle import looks_like_bundle
from ..bundle.manifest import PARTS
from ..core.errors import UserError

LONGEST_NAME = 240  # bytes: the names beside it are a little longer, and file systems take 255


def check_destination(out: Path) -> None:
    """Raise UserError unless a bundle can be put at `out`: nothing is there, or an empty folder, or a bundle (whole or not) with
    nothing else in it."""
    if len(os.fsencode(out.name)) > LONGEST_NAME:
        raise UserError("its name is too long", where=str(out)[:200], fix="choose another --out")
    try:
        _check(out)
    except OSError as error:  # a folder on the way that may not be entered, a path that is too long
        what = f"it cannot be looked at ({error.strerror})"
        raise UserError(what, where=str(out)[:200], fix="choose another --out") from None


def _check(out: Path) -> None:
    if out.is_mount():
        raise UserError("a disk is mounted there, which cannot be renamed", where=out, fix="name a folder inside it")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
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
        if not os.access(out, os.W_OK):
            raise UserError("it cannot be replaced: you may not write to it", where=out, fix="choose another --out")
    parent = next(folder for folder in out.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        said = "cannot be written to" if parent.is_dir() else "is not a folder"
        raise UserError(f"no folder can be made there: {parent} {said}", where=out, fix="choose another --out")
