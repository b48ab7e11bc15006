"""A user's files: checks before reading and writing, files that appear whole, and links."""

import fcntl
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import BinaryIO, TextIO

from ..core.errors import UserError

LFS_POINTER, LFS_LIMIT = b"version https://git-lfs.github.com/spec/", 1024  # its pointers are shorter, in bytes


def require_file(path: Path) -> Path:
    """The path of a regular file that is not empty, nor a Git LFS pointer. Raises UserError for anything else."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("there is no such file", where=path, fix="check the path") from None
    except (OSError, ValueError) as error:  # a name that is too long, a folder without permission
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the file cannot be opened ({reason})", where=str(path)[:200], fix="check the path") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UserError(f"the path is {kind}", where=path, fix="give a file")
    if status.st_size == 0:
        raise UserError("the file is empty", where=path, fix="copy the file again")
    if status.st_size < LFS_LIMIT and _starts_with(path, LFS_POINTER):
        what = "the file is a Git LFS pointer: its content was not downloaded with the repository"
        fix = f"run git lfs pull in {quote(str(path.parent))} (if git does not know lfs: install git-lfs first)"
        raise UserError(what, where=path, fix=fix)
    return path


def _starts_with(path: Path, start: bytes) -> bool:
    with suppress(OSError), open(path, "rb") as file:  # a file that cannot be read is refused by its reader
        return file.read(len(start)) == start
    return False


def require_folder(path: Path, fix: str) -> Path:
    """The path of a folder. Raises UserError, with this fix, for anything else."""
    if not os.path.isdir(path):
        what = "the path is a file, not a folder" if os.path.exists(path) else "there is no such folder"
        raise UserError(what, where=str(path)[:200], fix=fix)
    return path


def require_writable(path: Path) -> Path:
    """The path, links followed, where a file can be written. Raises UserError where none can."""
    fix = "choose another place"
    try:
        path = path.resolve()
        ordinary = path.is_file() if path.exists() else path.parent.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, a circle of links
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the file cannot be written ({reason})", where=str(path)[:200], fix=fix) from None
    if not ordinary or not os.access(path.parent, os.W_OK):
        kind = "the path is a folder" if path.is_dir() else "the path is not a regular file" if path.exists() else ""
        reason = kind or f"{path.parent} is not a writable folder"
        raise UserError(f"the file cannot be written: {reason}", where=path, fix=fix)
    return path


def standard_input() -> TextIO:
    """Raises UserError where the process has none."""
    if sys.stdin is None:
        raise UserError("standard input is closed", where="standard input", fix="send text to it, or name a file")
    return sys.stdin


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path` when the block ends without an error. Raises UserError where it cannot be written."""
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
    """The unfinished files of `written_whole`: of processes that were killed, and of those that write at this moment."""
    return [path for path in folder.iterdir() if re.fullmatch(r"\.\d+\.partial", path.name)]


@dataclass(frozen=True)
class Lines:
    """A file that grows line by line. partial: where it grows; kept: the lines of an interrupted run; write: appends one, without its newline"""

    partial: Path
    kept: list[str]
    write: Callable[[str], None]


@contextmanager
def written_by_line(
    path: Path, key: str, resume: bool = False, group: int = 1, finished: Callable[[str], str] = str
) -> Iterator[Lines]:
    """Collect lines in <name>.<key>.partial, which become `path` when the block ends without an error, and else stay.

    key     a hash of everything that the lines depend on, in hex
    resume  go on after the lines of an interrupted run, if there was one; of a torn last line, or of a group that is not whole, none stays
    group   how many lines are made together
    finished  a line -> what `path` gets of it, both with their newline

    Raises UserError where the file cannot be written, where another process writes it, and where lines of an earlier run would be lost or
    mixed with other ones.
    """
    path = require_writable(path)
    partial = path.with_name(f"{path.name}.{key[:12]}.partial")
    pattern = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{12}}\.partial")
    with translated(path):
        earlier = [each for each in path.parent.iterdir() if pattern.fullmatch(each.name)]
        if earlier and not (resume and partial in earlier):
            what, fix = "the partial output of an earlier run still exists", "go on with --resume, or move or delete it"
            if partial not in earlier:
                what = f"{what}: of another bundle, other inputs or other options"
                fix = "repeat that run with --resume, or move or delete the file"
            raise UserError(what, where=earlier[0], fix=fix)
        with open(partial, "a+b") as file:
            _lock(file)
            kept = _whole_lines(file, group)
            try:
                yield Lines(partial, kept, lambda line: _append(file, line))
                file.seek(0)
                with written_whole(path) as whole:
                    whole.writelines(finished(line.decode()).encode() for line in file)
                partial.unlink()
            finally:
                if partial.is_file() and partial.stat().st_size == 0:
                    partial.unlink()


def _lock(file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError("another run writes this file", where=file.name, fix="wait for its end") from None
    except OSError:  # the file system has no locks
        pass


def _whole_lines(file: BinaryIO, group: int) -> list[str]:
    """The file's lines, in whole groups; the rest is cut off."""
    file.seek(0)
    lines = [line for line in file if line.endswith(b"\n")]
    lines = lines[: len(lines) // group * group]
    file.truncate(sum(map(len, lines)))
    return [line.decode("utf-8", "surrogateescape") for line in lines]


def _append(file: BinaryIO, line: str) -> None:
    file.write(f"{line}\n".encode())
    file.flush()


def link_or_copy(source: Path, target: Path, while_copying: AbstractContextManager | None = None) -> None:
    """Hard-link a file that nobody edits; where the file system cannot, copy it, inside `while_copying`."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:  # another file system, or one that has no links
        with while_copying or nullcontext():
            shutil.copyfile(real, target)


def _take_place(partial: Path, path: Path) -> None:
    """Replace `path`, with the same permissions."""
    if path.exists():
        partial.chmod(stat.S_IMODE(path.stat().st_mode))
    partial.replace(path)


@contextmanager
def translated(
    path: Path, what: str = "the output cannot be written", fix: str = "choose another place, or free some space"
) -> Iterator[None]:
    """Turn OSError into UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} ({error.strerror})", where=str(path)[:200], fix=fix) from None


def only_file(folder: Path, patterns: Sequence[str], layout: str, options: str) -> Path:
    """The only file in a folder that matches a pattern. Raises UserError where none or several do.

    layout   the fix where none does
    options  the command line's options that name the file
    """
    files, pattern = sorted(path for pattern in patterns for path in folder.glob(pattern)), " or ".join(patterns)
    if not files:
        raise UserError(f"the folder has no {pattern}", where=folder, fix=layout)
    if len(files) > 1:
        what = f"the folder has {len(files)} files that match {pattern} ({', '.join(path.name for path in files[:4])})"
        raise UserError(what, where=folder, fix=f"name one of them: {options}")
    return files[0]
