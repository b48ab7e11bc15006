"""What a reader does meanwhile: files it writes, code it runs, processes and connections it opens, and how long it takes."""

import faulthandler
import os
import signal
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import eas_export

HANG_SECONDS, STUCK_SECONDS = 10, 60  # the second where no Python runs that could be interrupted: the process ends
PACKAGES = tuple(
    {os.path.realpath(path) + os.sep for path in (Path(eas_export.__file__).parent, *site.getsitepackages())}
    | {os.path.realpath(path) + os.sep for path in sysconfig.get_paths().values()}
)
TREE_EVENTS = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
)
OTHER_EVENTS = (
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "os.putenv",
)
EVENT_GROUPS = ("subprocess.", "socket.", "ctypes.", "shutil.", "pty.", "urllib.", "pickle.find_class")
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Hang(BaseException):
    """Raised by the alarm; no reader's `except Exception` takes it for damage."""


class Guard:
    """Sees what Python is asked to do while `watching` is set. Python keeps an audit hook for good: there is one guard."""

    def __init__(self):
        self.watching: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple) -> None:
        if self.watching is None:
            return
        if event == "open":
            path, mode, flags = args
            writes = flags & WRITE_FLAGS if isinstance(flags, int) else set(mode or "") & set("wax+")
            bad = writes and not self._inside(path)
        elif event in TREE_EVENTS:
            bad = not all(self._inside(path) for path in args if isinstance(path, str | bytes | os.PathLike))
        elif event == "exec":
            bad = (
                not os.path.realpath(args[0].co_filename).startswith(PACKAGES) and "<frozen" not in args[0].co_filename
            )
        else:
            bad = event in OTHER_EVENTS or event.startswith(EVENT_GROUPS)
        if bad:
            self.seen.append(f"{event} {args!r}"[:200])
            raise PermissionError(f"{event} while a damaged file is read")

    def _inside(self, path: object) -> bool:
        return not isinstance(path, int) and Path(os.path.realpath(os.fsdecode(path))).is_relative_to(self.watching)

    @contextmanager
    def __call__(self, folder: Path) -> Iterator[None]:
        """Watch a block that may write to `folder` alone. Raises Hang."""
        before = signal.signal(signal.SIGALRM, _hang)
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True, file=sys.__stderr__)
        signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
        self.seen, self.watching = [], Path(os.path.realpath(folder))
        try:
            yield
        finally:
            self.watching = None
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGALRM, before)


def _hang(*_: object) -> None:
    raise Hang


GUARD = Guard()
