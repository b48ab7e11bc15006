"""What this machine has and what eas-export could do on it. The packages come from this package's own requirements."""

import importlib.metadata
import os
import platform
from typing import Any

from packaging.requirements import Requirement

from .backends import BACKENDS, for_bundles, get_backend
from .backends.contract import Health
from .core.errors import UserError
from .core.record import Record
from .system.machine import total_memory

PACKAGE = "eas-export"
EVERYTHING = "everything"
NOT_EXAMINED = {"test"}  # the extra that only our own tests need
ONE_OF = "onnxruntime and onnxruntime-gpu overwrite each other's files"


class Machine(Record):
    """gpu: its name and memory, None where PyTorch sees none"""

    system: str
    python: str
    cores: int
    memory_bytes: int
    gpu: str | None


class Package(Record):
    """used_for: "everything", or the extra that brings it; wanted: a version range; installed: None where it is missing"""

    name: str
    used_for: str
    wanted: str
    installed: str | None
    ok: bool
    fix: str


class Report(Record):
    """ok: everything that is needed is there, nothing is out of its range, and a backend beside PyTorch runs"""

    machine: Machine
    packages: tuple[Package, ...]
    backends: dict[str, Health]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        needed = all(p.ok for p in self.packages if p.used_for == EVERYTHING or p.installed)
        return needed and any(b.runs for name, b in self.backends.items() if name in for_bundles())


def doctor() -> Report:
    """Look at everything. Nothing that might be missing is imported before it was seen."""
    packages = tuple(_package(requirement) for requirement in _requirements())
    installed = {package.name for package in packages if package.installed}
    both = {"onnxruntime", "onnxruntime-gpu"} <= installed
    notes = [f"{ONE_OF}: uninstall both, install one" if both else f"{ONE_OF}: have one of cpu and gpu"]
    if any(package.used_for == EVERYTHING and not package.installed for package in packages):
        notes.append("backends are not examined before the packages for everything are there")
        return Report(machine=_machine(None), packages=packages, backends={}, notes=tuple(notes))
    found: dict[str, Any] = {}
    for what, look in {"gpu": _gpu, "backends": _backends}.items():
        try:
            found[what] = look()
        except Exception as error:  # whatever a broken installation raises while it is imported
            notes.append(
                f"the {what} cannot be examined: {type(error).__name__}: {error}; install again what that names"
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


def _requirements() -> list[tuple[Requirement, str]]:
    """Every requirement of this package, with what it is for. Raises UserError where it is run without being installed."""
    try:
        importlib.metadata.metadata(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{PACKAGE} itself is not installed", where="Python", fix="pip install -e '.[cpu]'") from None
    extras = [e for e in importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra", []) if e not in NOT_EXAMINED]
    result = []
    for line in importlib.metadata.requires(PACKAGE) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            result.append((requirement, EVERYTHING))
        else:
            result += [(requirement, extra) for extra in extras if marker.evaluate({"extra": extra})]
    return result


def _package(wanted: tuple[Requirement, str]) -> Package:
    requirement, used_for = wanted
    try:
        installed = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    ok = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    source = f"{requirement.name}{requirement.specifier}" if used_for == EVERYTHING else f"{PACKAGE}[{used_for}]"
    return Package(
        name=requirement.name,
        used_for=used_for,
        wanted=str(requirement.specifier),
        installed=installed,
        ok=ok,
        fix="" if ok else f"pip install '{source}'",
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
