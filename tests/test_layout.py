"""The house: what may import what, and what is imported when."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from eas_export.families import FAMILIES

SOURCE = Path(__file__).parent.parent / "eas_export"

# A row imports from its own and from rows above it
ROWS = [
    ["errors", "progress", "digests", "machine"],
    ["scratch", "registry", "config", "cross_encoder_config", "files"],
    [
        "any_config",
        "validation",
        "health",
        "plan",
        "graph",
        "precision",
        "accounts",
        "question",
        "sampling",
        "tokenizer",
        "images",
    ],
    ["recipe", "store"],
    ["bundle"],
    ["destination", "workplace"],
    ["checkpoint"],
    ["family", "rewrite", "identity"],
    ["model"],
    ["families"],
    ["export"],
    ["assembly", "preflight", "backends"],
    ["conversation", "pairs"],
    ["generate", "answer"],
    ["inputs"],
    ["text"],
    ["parity"],
    ["pipeline", "demo", "doctor"],
    ["cli"],
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    package = ["eas_export", *path.relative_to(SOURCE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            found |= {base[1]} if len(base) > 1 else {alias.name for alias in node.names}
    return found - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    for other in imported_rooms(path):
        assert RANK[other] <= RANK[room(path)], f"{room(path)} imports {other}, which is below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_small_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "a file says in its first lines what it is for"


def test_backends_are_imported_in_their_own_files_only():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            heavy = {name.split(".")[0] for name in names} & {"onnxruntime", "tensorrt", "tensorrt_rtx", "polygraphy"}
            assert not heavy or room(path) == "backends", f"{path} imports {heavy}"


def test_no_family_is_named_outside_its_file():
    for path in FILES:
        if room(path) not in ("families", "demo"):
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.Constant) and node.value in FAMILIES), path


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--version"],
        ["build", "--help"],
        ["verify", "--help"],
        ["run", "--help"],
        ["inspect", "--help"],
        ["demo", "--help"],
        ["doctor", "--help"],
        ["check", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments):
    code = f"sys.argv = ['eas-export', *{arguments}]\nfrom eas_export.cli.main import main\ntry: main()\nexcept SystemExit as e: assert e.code == 0, e.code"
    assert not modules_after(code) & {"torch", "onnxruntime", "onnx", "onnx_ir", "numpy", "tensorrt", "tensorrt_rtx"}


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import eas_export") & {"torch", "onnx", "numpy", "pydantic", "click"}


def test_public_names_resolve():
    import eas_export

    for name in eas_export.__all__:
        value = getattr(eas_export, name)
        assert name == "__version__" or callable(value), name
    with pytest.raises(AttributeError):
        _ = eas_export.nothing


def test_summaries_are_the_commands_first_lines():
    from eas_export.cli.main import COMMANDS, SUMMARIES, cli

    assert list(COMMANDS) == list(SUMMARIES)
    for name, summary in SUMMARIES.items():
        assert cli.get_command(None, name).help.splitlines()[0] == summary
