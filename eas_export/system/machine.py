"""What this machine is, and what it has at this moment: memory and disk."""

import ctypes
import os
import platform
import re
import shutil
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_name() -> str:
    """The processor's name, or what kind it is."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.M)
    return found[1].strip() if found else platform.machine()


def total_memory() -> int:
    """Bytes of memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory() -> int:
    """Bytes that a process could take: what the system calls available and the swap that is left, within the container's limit
    where there is one."""
    found = re.findall(r"^(?:MemAvailable|SwapFree):\s+(\d+) kB", _read(Path("/proc/meminfo")), re.M)
    available = sum(1024 * int(number) for number in found) or total_memory()
    limit, taken = _read(CGROUP / "memory.max").strip(), re.search(r"^anon (\d+)", _read(CGROUP / "memory.stat"), re.M)
    return min(available, max(0, int(limit) - int(taken[1]))) if limit.isdigit() and taken else available


def private_memory() -> int:
    """Bytes of this process's own: mapped files do not count."""
    found = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", _read(Path("/proc/self/status")), re.M)
    return sum(1024 * int(number) for number in found)


def peak_memory() -> int:
    """The largest resident size of this process so far in bytes, mapped files included."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", _read(Path("/proc/self/status")), re.M)
    return 1024 * int(found[1]) if found else 0


def free_disk(path: Path) -> int:
    """Bytes that can be written where `path` is or would be."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another system, or no such limit
        return ""


def give_back_memory() -> None:
    """Give what was freed back to the system: the C library keeps it for itself, gigabytes of it after large tensors."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
