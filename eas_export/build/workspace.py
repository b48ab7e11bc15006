"""Where a bundle is made: `.NAME.partial` beside its place, locked while a build runs; what a killed build finished stays for the next one.

    lock            held by the process that builds; its number is inside
    finished.json   the files that are whole, each with the key of what decides its content
    bundle/         the files
    old/            what stood at the place, for the moment in which the two are swapped

A file is finished when it is on the disk and in the list. However a build ends before its time, its finished files stay, and the next
build into the same place takes over those that it would write again. The bundle takes its place whole, or not at all.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..bundle.bundle import Bundle, looks_like_bundle
from ..bundle.manifest import MANIFEST, PARTS, FileRecord, Made
from ..core.errors import UserError
from ..core.progress import Progress
from ..system.files import link_or_copy, translated
from ..system.hashing import remembered_sha256, sha256_of
from ..system.locked_folder import clear, lock_folder

CANNOT_WRITE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBUSY, errno.ESTALE),
)
LONGEST_NAME = 240  # bytes: the names beside it are a little longer, and file systems take 255
LOCK, FINISHED, OLD = "lock", "finished.json", "old"


class Workspace:
    """The files of one bundle while it is made.

    folder         where they are
    reuse_sources  bundles whose files may be taken over: linked where the file system can, else copied
    """

    def __init__(self, home: Path, reuse_sources: Sequence[Bundle], progress: Progress):
        self.folder, self.reuse_sources, self.progress = home / "bundle", reuse_sources, progress
        self.records: dict[str, FileRecord] = {}
        self._list = home / FINISHED
        self.folder.mkdir(exist_ok=True)
        self._before = _finished(home)
        self.remove_unfinished()

    def make(self, name: str, key: str, write: Callable[[Path], Made | None]) -> FileRecord:
        """The file `name` whose content `key` decides: as it was finished before or lies in a bundle to reuse, else as `write` writes it."""
        path = self.folder / name
        before = self._before.get(name)
        if before and before.key == key and self._is_whole(path, before, sha256_of):
            return self._finish(name, before)
        self._before.pop(name, None)
        path.unlink(missing_ok=True)
        for source in self.reuse_sources:
            record = source.manifest.files.get(name)
            if record and record.key == key and self._is_whole(source.path / name, record, remembered_sha256):
                link_or_copy(source.path / name, path, self.progress.stage(f"copying {name}"))
                return self._finish(name, record)
        made = write(path) or Made()
        sha256 = made.sha256 or sha256_of(path)
        return self._finish(name, FileRecord(bytes=path.stat().st_size, sha256=sha256, key=key, engine=made.engine))

    def end(self) -> None:
        """Everything that belongs to the bundle is made: remove what an earlier build with other options had finished."""
        self._before.clear()
        self.remove_unfinished()

    def remove_unfinished(self) -> None:
        """Remove what was neither finished now nor before."""
        clear(self.folder, keep=self._before | self.records)

    def _is_whole(self, path: Path, record: FileRecord, sha256: Callable[[Path, Callable[[int], None]], str]) -> bool:
        if not path.is_file() or path.stat().st_size != record.bytes:
            return False
        with self.progress.stage(f"checking {path.name}", record.bytes) as done:
            return sha256(path, done) == record.sha256

    def _finish(self, name: str, record: FileRecord) -> FileRecord:
        _to_disk(self.folder / name)
        finished = self._before | self.records | {name: record}
        partial = self._list.with_suffix(".partial")
        partial.write_text(json.dumps({n: r.model_dump() for n, r in finished.items()}), "utf-8")
        _to_disk(partial)
        partial.replace(self._list)
        self.records[name] = record
        return record


@contextmanager
def lock(out: Path) -> Iterator[Path]:
    """Lock the folder where the bundle for `out` is made; what a killed build left is put in order first.

    Raises UserError where another process holds the lock, and where the disk is full or cannot be written.
    """

    def busy(holder: str) -> UserError:
        what = f"process {holder or 'another'} is building it at this moment"
        return UserError(what, where=out, fix="wait until it is done, or choose another --out")

    home = home_of(out)
    with _translated(out):
        if home.is_symlink() or (home.exists() and not _is_ours(home)):
            what = f"{home.name} beside it is in the way, and is none of ours"
            raise UserError(what, where=out, fix="move that away, or choose another --out")
        with lock_folder(home, busy, LOCK):
            try:
                _put_back(home / OLD, out)
                yield home
            finally:
                if not _finished(home):
                    _remove(home)


@contextmanager
def workspace(
    home: Path, out: Path, force: bool, reuse_sources: Sequence[Bundle], progress: Progress
) -> Iterator[Workspace]:
    """A place to make the bundle that goes to `out`, where it takes the place of what is there when the block ends well.

    home   locked
    force  a bundle may be replaced
    """
    space = Workspace(home, reuse_sources, progress)
    try:
        yield space
    except BaseException:
        space.remove_unfinished()
        raise
    for path in (space.folder / MANIFEST, space.folder):
        _to_disk(path)
    check_destination(out)  # a build takes minutes
    if (out / MANIFEST).exists() and not force:
        raise UserError("a bundle has come there in the meantime", where=out, fix="pass --force to replace it")
    _take_place(space.folder, home / OLD, out)
    _remove(home)


def home_of(out: Path) -> Path:
    """The folder in which the bundle for `out` is made."""
    return out.with_name(f".{out.name}.partial")


def unfinished_bytes(out: Path) -> int:
    """What an unfinished build into `out` has on the disk of its own: it is taken over, or makes room."""
    files = [path.stat() for path in (home_of(out) / "bundle").glob("*.safetensors")]
    return sum(found.st_size for found in files if found.st_nlink == 1)


@contextmanager
def _translated(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        fix = "make room, or choose another --out; what was finished is kept beside it for the next build"
        raise UserError(f"the bundle cannot be written ({error.strerror})", where=out, fix=fix) from error


def _is_ours(home: Path) -> bool:
    return home.is_dir() and ((home / LOCK).is_file() or not any(home.iterdir()))


def _remove(home: Path) -> None:
    """The lock last: without it the folder would be none of ours."""
    with suppress(OSError):  # another build may hold a new lock already
        clear(home, keep=(LOCK,))
        (home / LOCK).unlink()
        home.rmdir()


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


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do it for folders
            raise
    finally:
        os.close(handle)


def _finished(home: Path) -> dict[str, FileRecord]:
    """The files in the list that are there; their bytes are not looked at."""
    try:
        listed = json.loads((home / FINISHED).read_text("utf-8")).items()
        records = {name: FileRecord.model_validate(record) for name, record in listed}
    except (OSError, ValueError, AttributeError, RecursionError):  # none yet, or not whole: then nothing is finished
        return {}
    there = {path.name for path in (home / "bundle").glob("*")}
    return {name: record for name, record in records.items() if name in there}


def check_destination(out: Path) -> None:
    """Raise UserError unless a bundle can be put at `out`: nothing is there, or an empty folder, or a bundle (whole or not) with
    nothing else in it."""
    if len(os.fsencode(out.name)) > LONGEST_NAME:
        raise UserError("its name is too long", where=str(out)[:200], fix="choose another --out")
    with translated(out, "it cannot be looked at", "choose another --out"):  # a folder not to be entered, a long path
        _check(out)


def _check(out: Path) -> None:
    if out.is_mount():
        raise UserError("a disk is mounted there, which cannot be renamed", where=out, fix="name a folder inside it")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not looks_like_bundle(out):
            fix = "choose another --out: only bundles are replaced"
            raise UserError("it exists and is no bundle", where=out, fix=fix)
        foreign = [path.name for path in sorted(out.iterdir()) if not any(path.match(part) for part in PARTS)]
        if foreign:
            what = f"it holds {foreign[0]}, which is no part of a bundle"
            raise UserError(what, where=out, fix="move that, or choose another --out")
        if not os.access(out, os.W_OK):
            raise UserError("it cannot be replaced: you may not write to it", where=out, fix="choose another --out")
    parent = next(folder for folder in out.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        said = "cannot be written to" if parent.is_dir() else "is not a folder"
        raise UserError(f"no folder can be made there: {parent} {said}", where=out, fix="choose another --out")
