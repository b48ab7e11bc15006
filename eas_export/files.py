"""A user's files: before one is read, and while one is written."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import UserError


def require_file(path: Path) -> Path:
    """The path, if a file that is not empty is there. Raises UserError that says what is there instead."""
    if path.is_dir():
        raise UserError("it is a folder", where=path, fix="give a file")
    if not path.exists():
        raise UserError("there is no such file", where=path, fix="check the path")
    if not path.is_file():
        raise UserError("it is no ordinary file", where=path, fix="give a file")
    if path.stat().st_size == 0:
        raise UserError("the file is empty", where=path, fix="copy it again")
    return path


def require_writable(path: Path) -> Path:
    """The path, if a file can be written there. Raises UserError before any work is done for it."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        said = "it is a folder" if path.is_dir() else f"{path.parent} is no folder that can be written to"
        raise UserError(f"it cannot be written: {said}", where=path, fix="choose another --outputs")
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes `path`'s place when the block ends without an error. Raises UserError where it cannot."""
    partial = require_writable(path).with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        fix = "choose another --outputs"
        raise UserError(f"it cannot be written ({error.strerror})", where=path, fix=fix) from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_by_line(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes a line. The file appears when the block ends without an error; else the lines so far stay in
    <name>.partial. Raises UserError where it cannot be written."""
    partial = require_writable(path).with_name(f"{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8", buffering=1) as file:
            yield lambda line: print(line, file=file)
        partial.replace(path)
    except OSError as error:
        fix = "choose another --outputs"
        raise UserError(f"it cannot be written ({error.strerror})", where=path, fix=fix) from None
    finally:
        if partial.is_file() and partial.stat().st_size == 0:
            partial.unlink()
