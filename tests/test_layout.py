"""The house: what may import what, and what is imported when."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from eas_export.families import FAMILIES

SOURCE = Path(__file__).parent.parent / "eas_export"

# A room imports from itself and from rooms that stand before it
ROOMS = (
    *("core", "system", "checkpoint", "networks", "bundle", "families", "inputs", "export", "backends", "generation"),
    *("build", "evaluate", "verify", "pipeline", "search", "bench", "inspect", "doctor", "demo", "cli"),
)
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[tuple[str, ...]]:
    """What a file imports of this package, at its top or later: each as the names on the way to it, a module's own or one of its names."""
    package = path.relative_to(SOURCE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ()))
            found |= {(*base, alias.name) for alias in node.names}
    return found - {("__version__",)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    for other in {names[0] for names in imported(path)}:
        assert ROOMS.index(other) <= ROOMS.index(room(path)), f"{room(path)} imports {other}, which is below it"


def test_no_file_imports_itself_on_a_way_round():
    """In a folder, too, imports go one way, those inside functions included."""
    files = {path.relative_to(SOURCE).with_suffix("").parts: path for path in FILES}
    files = {names[:-1] if names[-1] == "__init__" else names: path for names, path in files.items()}
    graph = {
        names: {other if other in files else other[:-1] for other in imported(path)} & files.keys() - {names}
        for names, path in files.items()
    }
    assert len([*TopologicalSorter(graph).static_order()]) == len(files)  # raises CycleError, which names the circle


def test_every_room_is_in_the_order_and_few_files_are_loose():
    there = {
        path.name.removesuffix(".py")
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - {"__init__"} == set(ROOMS)
    assert len([*SOURCE.glob("*.py")]) <= 6


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_small_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "a file says in its first lines what it is for"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_that_docstrings_name_are_there(path):
    for name in re.findall(r"(?<![\w*<{}/.\"])((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)\b", path.read_text()):
        published = name in (
            "mm_utils.py",
            "scripts/merge_lora_weights.py",
            "zero_to_fp32.py",
        )  # LLaVA's and DeepSpeed's
        assert published or any((folder / name).exists() for folder in (SOURCE, path.parent, SOURCE.parent)), name


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


KINDS = ("decoder", "cross-encoder")


def decisions(tree: ast.AST) -> list[int]:
    """The lines that decide by a family, or by a config's kind, other than through a table that has it as its key."""
    asked = []  # what is compared, and what with
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq | ast.Is) for op in node.ops):
            asked.append(node)
        elif isinstance(
            node, ast.Compare
        ):  # `in` a table is a look-up, `in` names that are written there is a comparison
            literal = (ast.Tuple, ast.List, ast.Set, ast.Constant)
            asked += [node] if any(isinstance(each, literal) for each in node.comparators) else []
        elif isinstance(node, ast.Match):
            asked += [node.subject, *(case.pattern for case in node.cases)]
    return [node.lineno for node in asked if any(map(_names_one, _parts(node)))]


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what it is made of, but not what an attribute is one of: a family's other data may be looked at."""
    yield node
    if not isinstance(node, ast.Attribute):
        for child in ast.iter_child_nodes(node):
            yield from _parts(child)


def _names_one(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute) and node.attr == "kind":
        return ast.unparse(node.value).split(".")[-1] == "config"
    if isinstance(node, ast.Attribute) and node.attr == "name":
        return _names_one(node.value)
    if isinstance(node, ast.Attribute | ast.Name):
        return (node.attr if isinstance(node, ast.Attribute) else node.id) == "family"
    return isinstance(node, ast.Constant) and node.value in (*KINDS, *FAMILIES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_is_decided_by_a_familys_name_or_a_kind_but_by_tables(path):
    if room(path) != "families":
        assert decisions(ast.parse(path.read_text())) == []


def test_kinds_are_those_of_the_configs():
    from eas_export.networks import NETWORKS

    assert KINDS == tuple(NETWORKS)


@pytest.mark.parametrize(
    "code",
    [
        "m.config.family == name",
        "x if config.family != other.family else y",
        "family is LAVIN",
        "text.family.name in ('a', 'b')",
        "checkpoint.config.kind == kind",
        "kind == 'decoder'",
        "config.kind in ('decoder', KIND)",
        "match config.kind:\n case _: pass",
        "match kind:\n case 'cross-encoder': pass",
        "match m.config:\n case Config(family=family): pass\n case Config(kind='decoder'): pass",
    ],
)
def test_decisions_are_seen(code):
    assert decisions(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "TABLE[config.kind](config)",
        "config.kind in TALKS",
        "block.kind == 'skipped'",
        "dtype.kind not in 'iu'",
        "family.prompts is None",
        "a.b == c",
    ],
)
def test_look_ups_are_no_decisions(code):
    assert not decisions(ast.parse(code))


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
        ["search", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments):
    code = f"sys.argv = ['eas-export', *{arguments}]\nfrom eas_export.cli.main import main\ntry: main()\nexcept SystemExit as e: assert e.code == 0, e.code"
    assert not modules_after(code) & {"torch", "onnxruntime", "onnx", "onnx_ir", "numpy", "tensorrt", "tensorrt_rtx"}


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import eas_export") & {"torch", "onnx", "numpy", "pydantic", "click"}


def test_a_build_imports_no_compiler(tmp_path):
    """Neither PyTorch's nor onnxscript's: each would take longer than the build of a small model, with its verification."""
    case = SOURCE.parent / "tests" / "golden" / "lavin" / "first"
    code = f"from eas_export.pipeline import build\nbuild({str(case)!r}, {str(tmp_path / 'o')!r})"
    assert not modules_after(code) & {"torch._dynamo", "torch._inductor", "torch.onnx", "onnxscript"}


def test_public_names_resolve_whatever_was_imported():
    """A folder is called as a verb is: importing it must not put the folder in the function's place."""
    import eas_export

    for module in pkgutil.walk_packages(eas_export.__path__, "eas_export."):
        importlib.import_module(module.name)
    for name in eas_export.__all__:
        value = getattr(eas_export, name)
        assert name == "__version__" or callable(value), name
    with pytest.raises(AttributeError):
        _ = eas_export.nothing


def test_summaries_are_the_commands_first_lines():
    from eas_export.cli.main import COMMANDS, cli

    for name, summary in COMMANDS.items():
        assert cli.get_command(None, name).help.splitlines()[0] == summary
