"""README and docs: every command runs as printed, every figure is a committed result's, every link and file is there."""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import made_once
from doc_files import METER, write_files
from readme_tables import BLOCKS, MARKED, RESULTS, with_results
from test_layout import ROOMS

from eas_export.backends import BACKENDS
from eas_export.checkpoint.architectures import ARCHITECTURES
from eas_export.cli.demo import DEFAULT_OUT
from eas_export.cli.main import cli
from eas_export.families import FAMILIES
from eas_export.families.meter.load import ROBERTA_HEADS
from eas_export.pipeline import build

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG")), ROOT / "calibration" / "README.md")
PAGES += tuple(sorted((ROOT / "docs").glob("*.md")))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
NOT_RUN = {"gpu": "needs an NVIDIA GPU", "setup": "installs something, or runs every test: .ci/run does"}
FIGURE = re.compile(r"\d ?((ms|s|GB|MB|kB|GFLOPs|tokens/s|tokens per second|times)\b|%)|\| *[\d,]+\.\d+ *\|")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. marks: what a comment at the end of the paragraph above it says, such as gpu"""

    marks: str
    language: str
    text: str

    @property
    def is_run(self) -> bool:
        return self.language == "sh" and self.marks not in NOT_RUN

    @property
    def is_program(self) -> bool:
        return self.language == "python" and self.text.startswith("import eas_export\n")

    def commands(self) -> list[list[str]]:
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"(?:<!-- (\w[\w ]*) -->\n\n)?^```(\w+)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [Block(*each) for each in found]


@pytest.fixture(scope="module", autouse=True)
def small_meter():
    """A METER of width 48 is read as RoBERTa's widths are, without --text-heads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROBERTA_HEADS, METER.dim, METER.heads)
        yield


@pytest.fixture(scope="module")
def doc_files(tmp_path_factory, small_meter):
    """The files that pages speak of, and the bundles that README builds or other pages use."""
    with made_once(tmp_path_factory, "docs", "files") as folder:
        if not folder.exists():
            folder.mkdir()
            write_files(folder)
            of_meter = {"tokenizer": folder / "roberta-base"}
            for out, ckpt, recipe, options in (
                ("lavin.bundle", "data", "lavin-7b-scienceqa", {"fold": "lowrank"}),
                ("meter.bundle", "meter-vqa.ckpt", "meter-vqa2", of_meter | {"labels": folder / "answers.json"}),
                ("nlvr2.bundle", "meter-nlvr2.ckpt", "meter-nlvr2", of_meter),
                ("retrieval.bundle", "meter-retrieval.ckpt", "meter-flickr30k", of_meter),
            ):
                recipe = folder / "recipes" / f"{recipe}.yaml"
                build(folder / ckpt, folder / out, recipe=recipe, precision="fp32", verify=False, **options)
    return folder


@pytest.fixture
def on_page(command, tmp_path_factory):
    """command, but for `eas-export demo`: two pages begin with it, in the same files. It runs once, and the other page gets what it printed
    and left."""

    def run(*arguments: str) -> tuple[int, str, str]:
        if arguments != ("demo",):
            return command(*arguments)
        with made_once(tmp_path_factory, "docs", "demo") as kept:
            if kept.exists():
                shutil.copytree(kept / DEFAULT_OUT, DEFAULT_OUT)
            else:
                done = command("demo")
                shutil.copytree(DEFAULT_OUT, kept / DEFAULT_OUT)
                (kept / "done.json").write_text(json.dumps(done))
            return tuple(json.loads((kept / "done.json").read_text()))

    return run


def run_all(page: Path, command) -> None:
    """Every command and every program of the page, in order; what a command prints is what the page shows under it."""
    printed = ""
    for block in blocks(page):
        if block.is_run:
            wanted, printed = int(block.marks.removeprefix("exit ") or 0), ""
            for name, *arguments in block.commands():
                assert name == "eas-export", f"{name}: mark the block as one of {', '.join(NOT_RUN)}"
                code, out, err = command(*arguments)
                assert code == wanted, (arguments, out, err)
                printed += (out + err).replace(str(Path.cwd()), "/home/me")
        elif block.is_program:
            exec(compile(block.text, str(page), "exec"), {})
        elif block.language == "text" and printed:
            output = iter(map(lasting, printed.splitlines()))
            shown = [lasting(line) for line in block.text.splitlines() if not line.startswith("[")]
            assert shown and [line for line in shown if line not in output] == []  # in this order


def lasting(line: str) -> str:
    """A line without its times, which differ from run to run, and without the width that they give to a table."""
    return " ".join(re.sub(r"\d+/s|\d+ s\b", "", line).split())


@pytest.mark.parametrize(
    "name", [name for name in NAMES if any(block.is_run or block.is_program for block in blocks(ROOT / name))]
)
def test_every_command_runs_as_printed(name, doc_files, tmp_path, monkeypatch, on_page):
    page = ROOT / name
    folder = shutil.copytree(doc_files, tmp_path / "work")
    monkeypatch.chdir(folder)
    if page == README:  # which builds them
        for bundle in folder.glob("*.bundle"):
            shutil.rmtree(bundle)
    run_all(page, on_page)


@pytest.mark.parametrize("name", NAMES)
def test_commands_that_are_not_run_have_known_options(name):
    for block in blocks(ROOT / name):
        for program, *words in block.commands() if block.language == "sh" and not block.is_run else ():
            if program == "eas-export":
                known = {option for each in cli.get_command(None, words[0]).params for option in each.opts}
                assert {word for word in words if word.startswith("--")} <= known, words


def test_readme_is_one_page():
    assert len(README.read_text("utf-8").splitlines()) <= 200


def test_readme_names_every_family_and_backend():
    text = README.read_text("utf-8").lower()
    assert all(name.lower() in text for name in FAMILIES)
    assert all(name in text for name in BACKENDS)


def test_the_supported_text_decoders_are_those_of_the_table():
    """docs/families.md has a row for each architecture, with its models; README names the first of each row, and no others."""
    page = (ROOT / "docs" / "families.md").read_text("utf-8").partition("## Text decoders of Hugging Face")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", page.partition("\n## ")[0], re.MULTILINE)
    assert rows[1:] == [(model_type, row.models) for model_type, row in ARCHITECTURES.items()]
    (named,) = re.findall(r"\(family `hf`: (.+?);", README.read_text("utf-8"))
    assert named.split(", ") == list(dict.fromkeys(re.match(r"[A-Za-z]+", models)[0] for _, models in rows[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_figures_come_from_the_results(name):
    text = (ROOT / name).read_text("utf-8")
    assert with_results(text) == text, "run python benchmarks/readme_tables.py"
    ours = MARKED.sub("", text)
    rows = [line for line in ours.splitlines() if line.startswith("|")]
    assert not [row for row in rows if FIGURE.search(row)], "a measured table is made from its committed result"


def test_every_block_is_shown_once():
    shown = [name for page in PAGES for name in MARKED.findall(page.read_text("utf-8"))]
    assert sorted(shown) == sorted(BLOCKS)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_keep_their_bars(path):
    result = json.loads(path.read_text())
    assert result["bars"] and {"machine", "versions", "command"} <= set(result)
    missed = {figure for figure, bar in result["bars"].items() if result[figure] > bar}
    assert missed == set(result.get("missed", {})) and all(result.get("missed", {}).values()), "each with its reason"


@pytest.mark.parametrize("name", NAMES)
def test_links_and_files_are_there(name):
    page, text = ROOT / name, (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        path, _, anchor = next(filter(None, target)).partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target
    for path in re.findall(r"`((?:recipes|benchmarks|calibration|eas_export|tests|docs)/[\w./-]*\w)`", text):
        assert (ROOT / path).exists(), path


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_architecture_has_every_room_in_order():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.M)) == ROOMS
    drawing = text.split("```")[1]
    missing = {room for room in ROOMS if f"{room}/" not in drawing and f"`{room}/`" not in text}
    assert missing <= {"pipeline", "inspect", "doctor", "demo", "cli"}  # commands over the rooms above
