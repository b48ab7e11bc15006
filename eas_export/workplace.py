"""Where a bundle is made: `.NAME.partial` beside the place that it goes to.

    lock            held by the process that builds; its number is inside
    finished.json   the files that are whole, each with the key of what decides its content
    bundle/         the files
    old/            what stood at the place, for the moment in which the two are swapped

A file is finished when it is on the disk and in the list. However a build ends before its time, its finished files stay, and the next
build into the same place takes over those that it would write again. The bundle takes its place whole, or not at all.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .bundle import Bundle, FileRecord
from .digests import remembered_sha256, sha256_of
from .errors import UserError
from .progress import Progress

CANNOT_WRITE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
)
LOCK, FINISHED, OLD = "lock", "finished.json", "old"


class Workplace:
    """The files of one bundle while it is made.

    folder   where they are
    lenders  bundles whose files may be taken over: linked where the file system can, else copied
    """

    def __init__(self, home: Path, lenders: Sequence[Bundle], progress: Progress):
        self.folder, self.lenders, self.progress = home / "bundle", lenders, progress
        self.records: dict[str, FileRecord] = {}
        self._list = home / FINISHED
        self._before = _read_records(self._list)
        self.folder.mkdir(exist_ok=True)

    def make(self, name: str, key: str, write: Callable[[Path], str | None]) -> FileRecord:
        """The file `name` whose content `key` decides: as it was finished before or lies in a lender, else as `write` writes it.

        write  path -> the sha256 of what it wrote, None where it did not make it on the way
        """
        path = self.folder / name
        before = self._before.pop(name, None)
        if before and before.key == key and self._is_whole(path, before, sha256_of):
            return self._finish(name, before)
        path.unlink(missing_ok=True)
        for lender in self.lenders:
            record = lender.manifest.files.get(name)
            if record and record.key == key and self._is_whole(lender.path / name, record, remembered_sha256):
                _link_or_copy(lender.path / name, path)
                return self._finish(name, record)
        sha256 = write(path) or sha256_of(path)
        return self._finish(name, FileRecord(bytes=path.stat().st_size, sha256=sha256, key=key))

    def end(self) -> None:
        """Everything that belongs to the bundle is made: remove what an earlier build with other options had finished."""
        self._before.clear()
        self.remove_unfinished()

    def remove_unfinished(self) -> None:
        """Remove what was neither finished now nor before."""
        for path in self.folder.iterdir():
            if path.name not in self.finished:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def finished(self) -> dict[str, FileRecord]:
        """Of this build, and of an earlier one where this one has not come to it yet."""
        return self._before | self.records

    def _is_whole(self, path: Path, record: FileRecord, sha256: Callable[[Path, Callable[[int], None]], str]) -> bool:
        if not path.is_file() or path.stat().st_size != record.bytes:
            return False
        with self.progress.stage(f"checking {path.name}", record.bytes) as done:
            return sha256(path, done) == record.sha256

    def _finish(self, name: str, record: FileRecord) -> FileRecord:
        _to_disk(self.folder / name)
        self.records[name] = record
        content = {name: record.model_dump() for name, record in self.finished.items()}
        partial = self._list.with_suffix(".partial")
        partial.write_text(json.dumps(content), "utf-8")
        _to_disk(partial)
        partial.replace(self._list)
        return record


@contextmanager
def workplace(out: Path, lenders: Sequence[Bundle], progress: Progress) -> Iterator[Workplace]:
    """A place to make the bundle that goes to `out`, where it takes the place of what is there when the block ends well.

    Raises UserError where another process is at it, and where the disk is full or cannot be written.
    """
    home = out.with_name(f".{out.name}.partial")
    with _translated(out), _held(home, out):
        _put_back(home / OLD, out)
        place = Workplace(home, lenders, progress)
        try:
            yield place
            _to_disk(place.folder)
            _take_place(place.folder, home / OLD, out)
        except BaseException:
            place.remove_unfinished()
            if not place.finished:
                shutil.rmtree(home, ignore_errors=True)
            raise
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _translated(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        fix = "make room, or choose another --out; what was finished is kept beside it for the next build"
        raise UserError(f"the bundle cannot be written ({error.strerror})", where=out, fix=fix) from error


@contextmanager
def _held(home: Path, out: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process however that ends."""
    lock = None
    while lock is None:
        if home.is_symlink() or (home.exists() and not _is_ours(home)):
            what = f"{home.name} beside it is in the way, and is none of ours"
            raise UserError(what, where=out, fix="move that away, or choose another --out")
        home.parent.mkdir(parents=True, exist_ok=True)
        lock = _try_lock(home, out)
    with lock:
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {os.uname().nodename}")
        lock.flush()
        yield


def _try_lock(home: Path, out: Path) -> TextIO | None:
    """The locked file, or None where its last holder removed it in the meantime."""
    home.mkdir(exist_ok=True)
    try:
        file = open(home / LOCK, "a+", encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(home / LOCK)):
            return file
    except BlockingIOError:
        file.seek(0)
        holder = file.read(100) or "another"
        file.close()
        what = f"process {holder} is building it at this moment"
        raise UserError(what, where=out, fix="wait until it is done, or choose another --out") from None
    except FileNotFoundError:
        pass
    file.close()
    return None


def _is_ours(home: Path) -> bool:
    return home.is_dir() and ((home / LOCK).is_file() or not any(home.iterdir()))


def _put_back(old: Path, out: Path) -> None:
    """Mend what a build that was killed in the middle of the swap left."""
    if old.exists() and not out.exists():
        old.rename(out)
    elif old.exists():
        shutil.rmtree(old)


def _take_place(folder: Path, old: Path, out: Path) -> None:
    """Put `folder` in the place of `out`; whatever interrupts, one of the two is there afterwards, or comes back with the next build."""
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    _to_disk(out.parent)


def _link_or_copy(source: Path, target: Path) -> None:
    """Files of bundles are never edited, so two bundles may share one."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one that has no links
        shutil.copyfile(source, target)


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_records(path: Path) -> dict[str, FileRecord]:
    try:
        return {name: FileRecord.model_validate(record) for name, record in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, RecursionError):  # none yet, or not whole: then nothing is finished
        return {}
