"""The README: its figures are the committed results', its commands and options exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

from eas_export.cli.main import COMMANDS, cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMAND_LINES = [
    line.split("#")[0].strip()
    for line in re.sub(r"\\\n\s*", " ", TEXT).splitlines()
    if line.strip().startswith("eas-export ")
]


def test_tables_come_from_the_results():
    from readme_tables import with_tables

    assert with_tables(TEXT) == TEXT, "run python benchmarks/readme_tables.py"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_keep_their_bars(path):
    result = json.loads(path.read_text())
    assert result["bars"] and {"machine", "versions", "command"} <= set(result)
    missed = {figure for figure, bar in result["bars"].items() if result[figure] > bar}
    assert missed == set(result.get("missed", {})) and all(result.get("missed", {}).values()), "each with its reason"


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_and_options_exist(line):
    name, *arguments = shlex.split(line)[1:]
    assert name in COMMANDS
    known = {option for parameter in cli.get_command(None, name).params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


def test_files_it_names_exist():
    for path in re.findall(r"`((?:recipes|benchmarks|calibration|eas_export|tests)/[\w./-]*)`", TEXT):
        assert (ROOT / path).exists(), path
