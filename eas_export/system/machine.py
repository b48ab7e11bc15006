"""This machine: its processor, memory and disk."""

import ctypes
import os
import platform
import re
import shutil
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_name() -> str:
    """The processor's name, or its architecture where the name is unknown."""
    name = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.M)
    return name[1].strip() if name else platform.machine()


def total_memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory() -> int:
    """Bytes that a process could allocate: available memory and free swap, within the container's limit if it has one."""
    numbers = re.findall(r"^(?:MemAvailable|SwapFree):\s+(\d+) kB", _read(Path("/proc/meminfo")), re.M)
    available = sum(1024 * int(number) for number in numbers) or total_memory()
    limit, taken = _read(CGROUP / "memory.max").strip(), re.search(r"^anon (\d+)", _read(CGROUP / "memory.stat"), re.M)
    return min(available, max(0, int(limit) - int(taken[1]))) if limit.isdigit() and taken else available


def private_memory() -> int:
    """Resident bytes of this process, without mapped files."""
    numbers = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", _read(Path("/proc/self/status")), re.M)
    return sum(1024 * int(number) for number in numbers)


def peak_memory() -> int:
    """Peak resident bytes of this process, mapped files included."""
    number = re.search(r"^VmHWM:\s+(\d+) kB", _read(Path("/proc/self/status")), re.M)
    return 1024 * int(number[1]) if number else 0


def free_disk(path: Path) -> int:
    """Free bytes of the disk that `path` is or would be on."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another system, or no such limit
        return ""


def give_back_memory() -> None:
    """Return freed memory to the system: the C library keeps it, gigabytes of it after large tensors."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
