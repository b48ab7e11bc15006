"""Run a command and measure its seconds, private memory and bytes written."""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.05  # seconds between two samples


@dataclass(frozen=True)
class Watched:
    """seconds: wall time; peak_bytes: the largest sampled RssAnon + RssShmem of the command and its children together, without mapped files;
    written_bytes: passed to write calls; output: its standard output"""

    seconds: float
    peak_bytes: int
    written_bytes: int
    output: str


def eas_export(*arguments: object) -> list[str]:
    """The command line for this package, with this interpreter."""
    return [sys.executable, "-c", "from eas_export.cli.main import main; main()", *map(str, arguments)]


def watch(command: list[str], expect: tuple[int, ...] = (0,)) -> Watched:
    """Run the command. Exits with a message where its exit code is not among those expected."""
    with tempfile.TemporaryFile("w+") as printed:  # a pipe would fill up while nobody reads
        start, peak, written = time.monotonic(), 0, 0
        process = subprocess.Popen(command, stdout=printed, text=True)
        while process.poll() is None:
            peak = max(peak, sum(map(_private_bytes, _family(process.pid))))
            written = max(written, _written_bytes(process.pid))
            time.sleep(EVERY)
        seconds = time.monotonic() - start
        printed.seek(0)
        output = printed.read()
    if process.returncode not in expect:
        sys.exit(f"exit {process.returncode}: {' '.join(command[:6])} ...")
    return Watched(seconds, peak, written, output)


def forget_cached(folder: Path) -> None:
    """Drop these files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = [int(child) for child in _proc(pid, f"task/{pid}/children").split()]
    return [pid, *(each for child in children for each in _family(child))]


def _private_bytes(pid: int) -> int:
    return sum(1024 * int(n) for n in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", _proc(pid, "status"), re.M))


def _written_bytes(pid: int) -> int:
    match = re.search(r"^wchar: (\d+)", _proc(pid, "io"), re.M)
    return int(match[1]) if match else 0


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:  # the process has just ended
        return ""
