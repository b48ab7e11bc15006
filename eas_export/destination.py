"""Where a bundle goes, checked before any work. Only a bundle is ever replaced."""

import os
from pathlib import Path

from .bundle import PARTS, looks_like_bundle
from .errors import UserError


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


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
