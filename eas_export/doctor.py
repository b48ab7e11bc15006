"""Examine this machine: its packages, as setup.py requires them, and what each backend can do here."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

from packaging.requirements import Requirement

from .backends import BACKENDS, for_bundles, get_backend
from .backends.contract import Health
from .core.errors import UserError
from .core.progress import Progress
from .core.record import Record
from .system.machine import total_memory
from .system.packages import PACKAGE, install_command, requirements

EVERYTHING = "everything"
NOT_EXAMINED = {"test"}  # extras
ONE_OF = "onnxruntime and onnxruntime-gpu overwrite each other's files"


class Machine(Record):
    """gpu: name, memory and compute capability; None where PyTorch sees none"""

    system: str
    python: str
    cores: int
    memory_bytes: int
    gpu: str | None


class Package(Record):
    """used_for: "everything", or the extra that requires it; wanted: a version range; installed: its version, None where it is missing"""

    name: str
    used_for: str
    wanted: str
    installed: str | None
    ok: bool
    fix: str

    @property
    def status(self) -> str:
        return "ok" if self.ok else "other version" if self.installed else "missing"


class Report(Record):
    """ok: every required package is installed, no version is out of its range, and a backend other than PyTorch runs bundles"""

    machine: Machine
    packages: tuple[Package, ...]
    backends: dict[str, Health]
    notes: tuple[str, ...]

    @property
    def commands(self) -> dict[str, str]:
        """What packages are for -> the command that installs them, where one is missing or of another version."""
        names = [package.name for package in self.packages if package.used_for == EVERYTHING and not package.ok]
        extras = {package.used_for for package in self.packages if not package.ok} - {EVERYTHING}
        everything = {EVERYTHING: install_command("", *names)} if names else {}
        return everything | {extra: install_command(extra) for extra in sorted(extras)}

    @property
    def ok(self) -> bool:
        needed = all(p.ok for p in self.packages if p.used_for == EVERYTHING or p.installed)
        return needed and any(b.runs for name, b in self.backends.items() if name in for_bundles())


def doctor(progress: Progress | None = None) -> Report:
    """Examine this machine; a package is imported only once it is known to be installed.

    Raises UserError where Python runs from a checkout that is not installed.
    """
    packages = tuple(_packages())
    installed = {package.name for package in packages if package.installed}
    both = {"onnxruntime", "onnxruntime-gpu"} <= installed
    notes = [f"{ONE_OF}: uninstall both, install one" if both else f"{ONE_OF}: install one of cpu and gpu"]
    if any(package.used_for == EVERYTHING and not package.installed for package in packages):
        notes.append("backends are not examined until the packages for everything are installed")
        return Report(machine=_machine(None), packages=packages, backends={}, notes=tuple(notes))
    found: dict[str, Any] = {}
    for what, look in {"gpu": _gpu, "backends": _backends}.items():
        try:
            with (progress or Progress()).stage(f"examining the {what}"):
                found[what] = look()
        except Exception as error:  # whatever a broken installation raises while it is imported
            notes.append(
                f"the {what} cannot be examined: {type(error).__name__}: {error}; reinstall the package that it names"
            )
    machine, backends = _machine(found.get("gpu")), found.get("backends", {})
    return Report(machine=machine, packages=packages, backends=backends, notes=tuple(notes))


def _backends() -> dict[str, Health]:
    result = {}
    for name in BACKENDS:
        try:
            result[name] = get_backend(name).health()
        except Exception as error:  # as above
            status = f"not usable: the installation is broken ({type(error).__name__}: {error})"
            result[name] = Health(
                version=None, runs=False, status=status, fix="uninstall what it runs on, and install it again"
            )
    return result


def _packages() -> Iterator[Package]:
    """Every requirement of this package. Raises UserError where Python runs from a checkout that is not installed."""
    try:
        wanted = requirements()
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{PACKAGE} is not installed", where="Python", fix=install_command("cpu")) from None
    for extra in wanted:
        if extra not in NOT_EXAMINED:
            yield from (_package(requirement, extra) for requirement in wanted[extra])


def _package(requirement: Requirement, extra: str) -> Package:
    try:
        installed = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    ok = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    return Package(
        name=requirement.name,
        used_for=extra or EVERYTHING,
        wanted=str(requirement.specifier),
        installed=installed,
        ok=ok,
        fix="" if ok else install_command(extra, requirement.name),
    )


def _gpu() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    return f"{properties.name}, {properties.total_memory / 1e9:.1f} GB, compute capability {capability}"


def _machine(gpu: str | None) -> Machine:
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        memory_bytes=total_memory(),
        gpu=gpu,
    )
