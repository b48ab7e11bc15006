"""sha256 of files, and a cache of them.

The cache only saves time: an entry is valid for the very file that was hashed (its path, size, time of change and inode), and `verify`
does not use it.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

MOST = 1000  # files in the cache
SETTLED = 2.0  # seconds: a file that changed more recently may change again within one tick of its clock


FilePrint = tuple[int, int, int]


def file_print(path: Path) -> FilePrint:
    """What changes when a file does: its bytes, the time of its last change in nanoseconds, its inode."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """sha256 of a file in hex; `on_bytes` is called with the size of each part that was read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 24):
            digest.update(part)
            on_bytes(len(part))
    return digest.hexdigest()


def remembered_sha256(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """`sha256_of`, from the cache where the file did not change since it was hashed."""
    name, before = os.path.realpath(path), file_print(path)
    size, changed, _ = before
    known = _read().get(name)
    if isinstance(known, dict) and known.get("file") == list(before) and isinstance(known.get("sha256"), str):
        on_bytes(size)
        return known["sha256"]
    settled = time.time() - changed / 1e9 > SETTLED
    digest = sha256_of(path, on_bytes)
    if settled and file_print(path) == before:
        _remember(name, {"file": before, "sha256": digest})
    return digest


def cache_folder() -> Path:
    """The user's folder for caches of this package, which can be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "eas-export"


def _memory() -> Path:
    return cache_folder() / "digests.json"


def _read() -> dict:
    try:
        content = json.loads(_memory().read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(name: str, entry: dict) -> None:
    """Add an entry. Silent where the cache cannot be written: the file is then hashed again next time."""
    kept = {key: value for key, value in _read().items() if key != name} | {name: entry}
    path = _memory()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(dict(list(kept.items())[-MOST:]), file)
            os.replace(partial, path)
        except OSError:
            os.unlink(partial)


def key_of(*content: Any) -> str:
    """A hash of content that JSON can write, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
