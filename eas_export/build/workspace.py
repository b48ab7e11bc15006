"""The workspace of a build: `.NAME.partial` beside the destination, locked while the build runs.

    lock            locked by the process that builds; contains its process id
    finished.json   the finished files, each with the key that decides its content
    bundle/         the files
    old/            the previous bundle, while the two are swapped

A file is finished when it is on disk and in the list. If a build is interrupted, its finished files stay, and the next build to the same
destination reuses those that it would write again. The bundle is moved to its destination atomically.
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
LONGEST_NAME = 240  # bytes: the workspace's name is a little longer, and file systems take 255
LOCK, FINISHED, OLD = "lock", "finished.json", "old"


class Workspace:
    """The files of a bundle under construction.

    folder         contains them
    reuse_sources  bundles whose files may be reused: linked if the file system allows it, else copied
    """

    def __init__(self, home: Path, reuse_sources: Sequence[Bundle], progress: Progress):
        self.folder, self.reuse_sources, self.progress = home / "bundle", reuse_sources, progress
        self.records: dict[str, FileRecord] = {}
        self._list = home / FINISHED
        self.folder.mkdir(exist_ok=True)
        self._before = _finished(home)
        self.remove_unfinished()

    def make(self, name: str, key: str, write: Callable[[Path], Made | None]) -> FileRecord:
        """Make the file `name` with the content that `key` decides: finished before, reused from another bundle, or written by `write`."""
        path = self.folder / name
        before = self._before.get(name)
        if before and before.key == key and self._is_intact(path, before, sha256_of):
            return self._finish(name, before)
        self._before.pop(name, None)
        path.unlink(missing_ok=True)
        for source in self.reuse_sources:
            record = source.manifest.files.get(name)
            if record and record.key == key and self._is_intact(source.path / name, record, remembered_sha256):
                link_or_copy(source.path / name, path, self.progress.stage(f"copying {name}"))
                return self._finish(name, record)
        made = write(path) or Made()
        sha256 = made.sha256 or sha256_of(path)
        return self._finish(name, FileRecord(bytes=path.stat().st_size, sha256=sha256, key=key, engine=made.engine))

    def end(self) -> None:
        """All files are made: remove those that an earlier build with other options has finished."""
        self._before.clear()
        self.remove_unfinished()

    def remove_unfinished(self) -> None:
        """Remove files that no build has finished."""
        clear(self.folder, keep=self._before | self.records)

    def _is_intact(self, path: Path, record: FileRecord, sha256: Callable[[Path, Callable[[int], None]], str]) -> bool:
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
    """Lock the workspace of `out`, and clean up after a killed build.

    Raises UserError if another process has the lock, and if the disk is full or not writable.
    """

    def busy(holder: str) -> UserError:
        what = f"{f'process {holder}' if holder else 'another process'} is building this bundle"
        return UserError(what, where=out, fix="wait until it is done, or choose another --out")

    home = home_of(out)
    with _translated(out):
        if home.is_symlink() or (home.exists() and not _is_ours(home)):
            what = f"{home.name} is in the way: no build made it"
            raise UserError(what, where=out, fix=f"move {home.name} away, or choose another --out")
        with lock_folder(home, busy, LOCK):
            try:
                _put_back(home / OLD, out)
                yield home
            except (KeyboardInterrupt, SystemExit) as error:
                if kept := _finished(home):
                    error.add_note(
                        f"run the same command again: it reuses what is finished in {home} ({', '.join(kept)})"
                    )
                raise
            finally:
                if not _finished(home):
                    _remove(home)


@contextmanager
def workspace(
    home: Path, out: Path, force: bool, reuse_sources: Sequence[Bundle], progress: Progress
) -> Iterator[Workspace]:
    """A workspace for the bundle `out`, which is moved there when the block ends without an exception.

    home   the locked folder
    force  whether an existing bundle may be replaced
    """
    space = Workspace(home, reuse_sources, progress)
    try:
        yield space
    except BaseException:
        space.remove_unfinished()
        raise
    for path in (space.folder / MANIFEST, space.folder):
        _to_disk(path)
    check_destination(out)  # again: a build takes minutes
    if (out / MANIFEST).exists() and not force:
        what = "another build has written a bundle to --out in the meantime"
        raise UserError(what, where=out, fix="pass --force to replace it")
    _take_place(space.folder, home / OLD, out)
    _remove(home)


def home_of(out: Path) -> Path:
    """The folder in which the bundle for `out` is made."""
    return out.with_name(f".{out.name}.partial")


def unfinished_bytes(out: Path) -> int:
    """The disk space of an unfinished build to `out`, which is reused or freed; links to other bundles do not count."""
    files = [path.stat() for path in (home_of(out) / "bundle").glob("*.safetensors")]
    return sum(file.st_size for file in files if file.st_nlink == 1)


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
    """Remove the workspace, the lock last: without it the folder is not recognised as ours."""
    with suppress(OSError):  # another build may have locked it again
        clear(home, keep=(LOCK,))
        (home / LOCK).unlink()
        home.rmdir()


def _put_back(old: Path, out: Path) -> None:
    """Complete or undo the swap of a build that was killed during it."""
    if old.exists() and not out.exists():
        old.rename(out)
    elif old.exists():
        shutil.rmtree(old)


def _take_place(folder: Path, old: Path, out: Path) -> None:
    """Replace `out` by `folder`. If this is interrupted, one of the two is at `out`, or the next build restores it."""
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
    """Wait until a file, or a folder's entries, would survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not support it for folders
            raise
    finally:
        os.close(handle)


def _finished(home: Path) -> dict[str, FileRecord]:
    """The listed files that exist; does not check their contents."""
    try:
        listed = json.loads((home / FINISHED).read_text("utf-8")).items()
        records = {name: FileRecord.model_validate(record) for name, record in listed}
    except (OSError, ValueError, AttributeError, RecursionError):  # no list yet, or a damaged one: nothing is finished
        return {}
    existing = {path.name for path in (home / "bundle").glob("*")}
    return {name: record for name, record in records.items() if name in existing}


def check_destination(out: Path) -> None:
    """Raise UserError unless a bundle can be put at `out`: it does not exist, is an empty folder, or a bundle (complete or not) without
    other files."""
    if len(os.fsencode(out.name)) > LONGEST_NAME:
        what = f"the bundle's name is longer than {LONGEST_NAME} bytes"
        raise UserError(what, where=str(out)[:200], fix="choose another --out")
    with translated(out, "cannot access the folder", "choose another --out"):  # no permission, or too long a path
        _check(out)


def _check(out: Path) -> None:
    if out.is_mount():
        what = "the folder is a mount point, which cannot be renamed"
        raise UserError(what, where=out, fix="name a folder inside it")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not looks_like_bundle(out):
            fix = "choose another --out: only bundles are replaced"
            raise UserError("the destination exists but is not a bundle", where=out, fix=fix)
        foreign = [path.name for path in sorted(out.iterdir()) if not any(path.match(part) for part in PARTS)]
        if foreign:
            what = f"the bundle's folder contains {foreign[0]}, which is not part of a bundle"
            raise UserError(what, where=out, fix="move that file, or choose another --out")
        if not os.access(out, os.W_OK):
            what = "the bundle cannot be replaced: you have no write permission"
            raise UserError(what, where=out, fix="choose another --out")
    parent = next(folder for folder in out.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        problem = "is not writable" if parent.is_dir() else "is not a folder"
        raise UserError(f"the folder cannot be created: {parent} {problem}", where=out, fix="choose another --out")
