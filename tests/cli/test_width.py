"""Every command's output fits in 80 columns, and COLUMNS is obeyed where output is piped. The demo's: test_demo.py"""

import json
import os
import pty
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, golden_case
from meter_cases import MeterCase
from rich.text import Text
from sample_reports import ALL
from search_cases import OPTIONS

from eas_export.bench.report import BenchReport
from eas_export.cli.bench_report import print_report as print_bench_report
from eas_export.cli.main import COMMANDS
from eas_export.cli.output import PIPED_WIDTH, PlainConsole, Table
from eas_export.cli.report import print_report
from eas_export.cli.width import fill, line_width

CASE = golden_case("first")
RETRIEVAL = MeterCase("irtr_skip10")
ENGINES = ("--backend", "tensorrt-rtx", "--precision", "fp16", "--compute-capability", "80,86,89,120")


@pytest.fixture(autouse=True)
def width(monkeypatch):
    """Sets COLUMNS: 80 unless a test sets another."""
    set_width = lambda columns: monkeypatch.setenv("COLUMNS", str(columns))
    set_width(80)
    return set_width


def require_narrow(*outputs: str) -> None:
    """No line is wider than 80 columns, except for a word that cannot be broken; nothing is cut."""
    for line in "\n".join(outputs).splitlines():
        assert len(line) <= 80 or len(line.split()) == 1, line
        assert "…" not in line


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help(name, command):
    code, out, err = command(*name.split(), "--help")
    assert code == 0 and not err
    assert max(map(len, out.splitlines())) <= 80


def arguments(name: str, request: pytest.FixtureRequest, folder: Path) -> tuple[object, ...]:
    """A command of each kind of output."""
    bundle_of, out = request.getfixturevalue("bundle_of"), folder / "out"
    if name == "inspect a checkpoint":
        return "inspect", CASE.folder
    if name == "inspect METER":
        return "inspect", request.getfixturevalue("meter_bundle_of")(RETRIEVAL).path
    if name == "inspect engines":
        return "inspect", request.getfixturevalue("engines_of")(CASE).path, "--check"
    if name == "check":
        return "check", bundle_of(CASE, "fp16").path
    if name == "build":
        return "build", "--ckpt", TINY.folder, "--out", out, "--max-prompt", 64, "--max-tokens", 128
    if name == "build --dry-run":
        return "build", "--ckpt", TINY.folder, "--out", out, *ENGINES, "--dry-run"
    if name == "verify":
        return "verify", bundle_of(CASE).path, "--ckpt", CASE.folder, "--steps", 2, "--require", "tensorrt"
    if name == "run token ids":
        np.savez(folder / "x.npz", **CASE.arrays("txt1"))
        return "run", bundle_of(CASE).path, "--inputs", folder / "x.npz"
    if name == "run pairs":
        np.savez(folder / "x.npz", **RETRIEVAL.arrays)
        return "run", request.getfixturevalue("meter_bundle_of")(RETRIEVAL).path, "--inputs", folder / "x.npz"
    if name == "search":
        options = [part for key, value in OPTIONS.items() for part in (f"--{key.replace('_', '-')}", value)]
        plain, questions = request.getfixturevalue("plain"), request.getfixturevalue("questions")
        return "search", "--ckpt", plain, "--data", questions, "--out", out, "--count", 2, *options
    return (name,)  # doctor


RUNS = (
    *("inspect a checkpoint", "inspect METER", "inspect engines", "check", "build", "build --dry-run"),
    *("verify", "run token ids", "run pairs", "search", "doctor"),
)
ONCE = ("build", "check", "search", "verify")  # slow, or of other numbers each time


@pytest.mark.parametrize("name", RUNS)
def test_output(name, command, request, tmp_path, width):
    given = arguments(name, request, tmp_path)
    code, out, err = command(*given)
    assert code in (0, 1, 3) and out and "Traceback" not in err, err
    require_narrow(out, err)
    if name.split()[0] not in ONCE:
        width(1000)
        assert set(command(*given)[1].split()) == set(out.split())  # no word and no number is cut


@pytest.mark.parametrize("name", ALL)
def test_reports(name, capsys):
    print_report(ALL[name](), PlainConsole())
    require_narrow(capsys.readouterr().out)


def test_a_report_of_bench(capsys):
    """A measured one, since a bench takes long."""
    text = (Path(__file__).parents[2] / "benchmarks" / "results" / "bench_1B_fp32.json").read_text()
    print_bench_report(BenchReport.model_validate(json.loads(text)["report"]), PlainConsole())
    require_narrow(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "no/such/folder/" + "x" * 90),
        ("build", "--ckpt", "nowhere", "--out", "o", "--precison", "fp16"),
        ("check", "BUNDLE", "--backend", "tensorrt"),
        ("build", "--ckpt", TINY.folder, "--out", "o", "--skip", "40"),
        ("run", "BUNDLE"),
    ],
)
def test_errors(words, command, bundle_of, monkeypatch):
    """At most 80 columns where they are known; in a log an error is one line. The fix can be copied."""
    words = [bundle_of(CASE).path if word == "BUNDLE" else word for word in words]
    code, out, err = command(*words)
    assert code == 2 and err.startswith("error: ")
    require_narrow(out, err)
    monkeypatch.delenv("COLUMNS")
    (line,) = command(*words)[2].splitlines()
    assert line.split() == err.split()
    fix = json.loads(command(*words, "--json")[1])["error"]["fix"]
    assert len(fix) > 78 or f"{err}".rstrip().endswith((f"\n  {fix}", f": {fix}"))


def test_a_table_keeps_its_words(capsys):
    rows = [["short", "a text of several words", Text("same"), f"{10**n}"] for n in range(3)]
    PlainConsole().print(Table("title", ["name", "text", "", "number"], rows, numbers=1))
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "name   text                           number",
        "short  a text of several words  same       1",
    ]


def test_a_table_that_is_too_wide_breaks_texts_and_then_columns_apart(capsys, width):
    rows = [["first", "a text of words", "123456", "7"], ["second", "other", "1", "1234567"]]
    shown = Table("title", ["name", "text", "number", "amount"], rows, numbers=2)
    width(30)
    PlainConsole().print(shown)
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "name    text   number   amount",
        "first   a      123456        7",
        "        text",
        "        of",
        "        words",
        "second  other       1  1234567",
    ]
    width(22)
    PlainConsole().print(shown)
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "name     amount",
        "first         7",
        "second  1234567",
    ]


def test_paths_are_not_broken(capsys):
    path = "/data/" + "x" * 90
    PlainConsole().print(f"{path}: a bundle")
    assert capsys.readouterr().out == f"{path}:\n  a bundle\n"
    assert fill(f"the bundle is at {path}", 80, "  ") == f"the bundle is at\n  {path}"


def test_the_width_is_the_terminals_then_columns_then_a_default(monkeypatch, tmp_path):
    with open(tmp_path / "piped", "w") as file:
        assert line_width(file, 7) == 80
        monkeypatch.setenv("COLUMNS", "many")
        assert line_width(file, 7) == 7
        monkeypatch.delenv("COLUMNS")
        assert line_width(file, 7) == 7 and PlainConsole().width == PIPED_WIDTH
    monkeypatch.setenv("COLUMNS", "80")
    leader, follower = pty.openpty()
    with open(follower, "w") as terminal, open(leader):
        monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((132, 40)))
        assert line_width(terminal, 7) == 132
