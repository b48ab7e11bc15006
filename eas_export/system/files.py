"""A user's files: before one is read, while one is written, and where two bundles share one."""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from ..core.errors import UserError


def require_file(path: Path) -> Path:
    """The path, if a file that is not empty is there. Raises UserError that says what is there instead."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("there is no such file", where=path, fix="check the path") from None
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be entered
        said = getattr(error, "strerror", None) or error
        raise UserError(f"it cannot be opened ({said})", where=str(path)[:200], fix="check the path") from None
    if not stat.S_ISREG(found.st_mode):
        folder = stat.S_ISDIR(found.st_mode)
        raise UserError("it is a folder" if folder else "it is no ordinary file", where=path, fix="give a file")
    if found.st_size == 0:
        raise UserError("the file is empty", where=path, fix="copy it again")
    return path


def require_writable(path: Path) -> Path:
    """Where a file can be written, links followed. Raises UserError before any work is done for it."""
    fix = "choose another place"
    try:
        path = path.resolve()
        ordinary = path.is_file() if path.exists() else path.parent.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, a circle of links
        said = getattr(error, "strerror", None) or error
        raise UserError(f"it cannot be written ({said})", where=str(path)[:200], fix=fix) from None
    if not ordinary or not os.access(path.parent, os.W_OK):
        nowhere = f"{path.parent} is no folder that can be written to"
        said = "it is a folder" if path.is_dir() else "it is no ordinary file" if path.exists() else nowhere
        raise UserError(f"it cannot be written: {said}", where=path, fix=fix)
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes `path`'s place when the block ends without an error. Raises UserError where it cannot."""
    path = require_writable(path)
    partial = path.with_name(f".{os.getpid()}.partial")
    with translated(path):
        try:
            with open(partial, "wb") as file:
                yield file
            _take_place(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def partials_in(folder: Path) -> list[Path]:
    """What `written_whole` was writing in processes that were killed; also what it writes there at this moment."""
    return [path for path in folder.iterdir() if re.fullmatch(r"\.\d+\.partial", path.name)]


def partial_of(path: Path) -> Path:
    """Where `written_by_line` keeps lines until all are there. Raises UserError where an earlier failure's lines would be lost."""
    path = require_writable(path)
    partial = path.with_name(f"{path.name}.partial")
    if os.path.lexists(partial):
        fix = "move it away or delete it"
        raise UserError("what an earlier run wrote before it failed is still there", where=partial, fix=fix)
    return partial


@contextmanager
def written_by_line(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes a line. The file appears when the block ends without an error; else the lines so far stay in
    <name>.partial. Raises UserError where it cannot be written, and where an earlier failure's lines would be lost."""
    path, partial = require_writable(path), partial_of(path)
    with translated(path):
        try:
            with open(partial, "x", encoding="utf-8", buffering=1) as file:
                yield lambda line: print(line, file=file)
            _take_place(partial, path)
        finally:
            if partial.is_file() and partial.stat().st_size == 0:
                partial.unlink()


def link_or_copy(source: Path, target: Path, while_copying: AbstractContextManager | None = None) -> None:
    """A second name for a file that nobody edits; a copy where the file system has none, made inside `while_copying`."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:  # another file system, or one that has no links
        with while_copying or nullcontext():
            shutil.copyfile(real, target)


def _take_place(partial: Path, path: Path) -> None:
    """Of what was there, the permissions stay."""
    if path.exists():
        partial.chmod(stat.S_IMODE(path.stat().st_mode))
    partial.replace(path)


@contextmanager
def translated(
    path: Path, what: str = "it cannot be written", fix: str = "choose another place, or make room"
) -> Iterator[None]:
    """Raise UserError for what the system says against writing there."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} ({error.strerror})", where=str(path)[:200], fix=fix) from None


def only_file(folder: Path, patterns: Sequence[str], layout: str, options: str) -> Path:
    """The one file in a folder that fits a pattern. layout: what to do where there is none; options: those that name a file. Raises UserError
    where there is none, or more than one."""
    found, looked_for = sorted(path for pattern in patterns for path in folder.glob(pattern)), " or ".join(patterns)
    if not found:
        raise UserError(f"there is no {looked_for}", where=folder, fix=layout)
    if len(found) > 1:
        what = f"there are {len(found)} files {looked_for} ({', '.join(path.name for path in found[:4])})"
        raise UserError(what, where=folder, fix=f"name the one you mean: {options}")
    return found[0]
