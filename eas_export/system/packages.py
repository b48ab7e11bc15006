"""This package's requirements, read from its own metadata, and the pip commands that install them: setup.py alone names packages and bounds."""

import importlib.metadata
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "eas-export"


def requirements() -> "dict[str, list[Requirement]]":
    """Extra -> its requirements; "" -> those of every installation. Raises PackageNotFoundError where Python runs from a checkout."""
    from packaging.requirements import Requirement

    extras = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra", [])
    result: dict[str, list[Requirement]] = {extra: [] for extra in ("", *extras)}
    for requirement in map(Requirement, importlib.metadata.requires(PACKAGE) or []):
        marker, requirement.marker = requirement.marker, None
        always = marker is None or marker.evaluate({"extra": ""})
        for extra in [""] if always else [extra for extra in extras if marker.evaluate({"extra": extra})]:
            result[extra].append(requirement)
    return result


def install_command(extra: str, *packages: str, option: str = "") -> str:
    """The command that installs what an extra requires, or only these packages of it. option: one of pip's, like -U

    The requirements themselves are named, not eas-export[extra]: the package is on no index.
    """
    try:
        wanted = [str(each) for each in requirements()[extra] if not packages or each.name in packages]
    except (importlib.metadata.PackageNotFoundError, KeyError):
        # a checkout that is not installed, or was installed before it had the extra
        wanted = ["-e", f".[{extra or 'cpu'}]"]
    return shlex.join(["pip", "install", *option.split(), *wanted])
