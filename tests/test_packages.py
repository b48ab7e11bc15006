"""Commands that install something: they work as printed, and setup.py alone names packages and bounds."""

import ast
import importlib.metadata
import runpy
import shlex
from email.message import Message
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pytest
from packaging.requirements import Requirement

from eas_export.backends.tensorrt.flavor import get_flavor
from eas_export.system.packages import install_command, requirements

ROOT = Path(__file__).parent.parent
SOURCES = {path: ast.parse(path.read_text()) for path in (ROOT / "eas_export").rglob("*.py")}


def declared() -> dict[str, list[str]]:
    """Extra -> requirements as setup.py lists them; "" -> those of every installation."""
    with patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return {"": setup.call_args.kwargs["install_requires"], **setup.call_args.kwargs["extras_require"]}


DECLARED = declared()


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The metadata of an installation of this setup.py: that of an older one may be what Python finds."""
    lines = [f"{each}; extra == '{extra}'" if extra else each for extra, found in DECLARED.items() for each in found]
    about = Message()
    for extra in filter(None, DECLARED):
        about["Provides-Extra"] = extra
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: about)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)


def named(command: str) -> set[Requirement]:
    """The requirements that a pip command names."""
    pip, install, *rest = shlex.split(command)
    assert (pip, install) == ("pip", "install")
    return {Requirement(each) for each in rest if not each.startswith("-")}


@pytest.mark.parametrize("extra", DECLARED)
def test_an_extra_is_what_setup_declares(extra):
    assert named(install_command(extra)) == set(requirements()[extra]) == set(map(Requirement, DECLARED[extra]))


# What a call in a function is given
LOCALS = {
    "option": "-U",
    "self": get_flavor("tensorrt-rtx"),
    "extra": "cpu",
    "requirement": Requirement("onnxruntime"),
    "missing": True,
    "names": ["torch"],
}
CALLS = [
    pytest.param(path, ast.unparse(node), id=f"{path.name}:{node.lineno}")
    for path, tree in SOURCES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "install_command"
]


@pytest.mark.parametrize("path, call", CALLS)
def test_a_messages_command_names_what_setup_declares(path, call):
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    wanted = named(eval(call, vars(module) | LOCALS))
    assert wanted and any(wanted <= set(map(Requirement, lines)) for lines in DECLARED.values())


def test_no_message_spells_a_command_itself():
    for path, tree in SOURCES.items():
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str]
        assert path.name == "packages.py" or not any("pip install" in text for text in texts), path


def test_a_checkout_that_is_not_installed_installs_itself(monkeypatch):
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    assert install_command("rtx") == "pip install -e '.[rtx]'"
    assert install_command("", "pillow") == "pip install -e '.[cpu]'"
