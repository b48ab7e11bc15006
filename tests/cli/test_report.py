"""A report on the terminal."""

import io
import re

import pytest
from rich.console import Console
from sample_reports import ALL, differing, passing

from eas_export.cli.report import print_report
from eas_export.verify.report import ControlReport, Divergence, ParityReport


def controls() -> ParityReport:
    """A cross-encoder's long names; a fault that is found, one that is located elsewhere, and one that does not apply."""
    names = {"graph": "encode", "part": "text stream", "layer": 3}
    found = Divergence(step="onnxruntime", case="image", stage="attention.up", error=0.1, **names)
    elsewhere = found.model_copy(update={"layer": 2})
    return passing().model_copy(
        update={
            "controls": (
                ControlReport(name="pooled feature counted twice", what="w", found=found, **names),
                ControlReport(name="transposed weight", what="w", found=elsewhere, ok=False, **names),
                ControlReport(name="padding is read", what="w", why_not="no layer keeps its self-attention"),
            )
        }
    )


REPORTS = ALL | {"controls": controls}


def printed(report: ParityReport, width: int = 120, **options) -> list[str]:
    console = Console(highlight=False, markup=False, width=width, record=True, file=io.StringIO(), **options)
    print_report(report, console, exits=True)
    return [line.rstrip() for line in console.export_text(styles="color_system" in options).splitlines()]


@pytest.mark.parametrize("name", REPORTS)
def test_the_verdict_is_the_first_line_and_the_last(name):
    report = REPORTS[name]()
    lines = printed(report, width=80)
    assert lines[0] == lines[-1] and lines[0].startswith(f"verdict: {report.verdict} (exit {report.exit_code}: ")


def test_a_command_with_exit_codes_of_its_own_shows_the_verdict_alone():
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(passing(), console)
    assert console.export_text().splitlines()[0] == "verdict: same as the checkpoint"


@pytest.mark.parametrize("name", REPORTS)
def test_80_columns_hold_every_line_and_every_number(name):
    wide, narrow = printed(REPORTS[name](), width=200), printed(REPORTS[name](), width=80)
    assert max(map(len, narrow)) <= 80 and "…" not in "".join(narrow)
    # no row is wrapped: each has its error, what is allowed, and the step before
    rows = [re.findall(r"\d\.\de[-+]\d\d", line)[-4:] for line in wide if re.search(r"  (same|DIFFERS)  ", line)]
    assert rows == [re.findall(r"\d\.\de[-+]\d\d", line) for line in narrow if re.search(r"  (same|DIFFERS)  ", line)]


def test_optional_columns_go_where_there_is_no_room_for_them():
    def titles(width: int) -> list[str]:
        lines = printed(passing(), width)
        return lines[lines.index("onnxruntime: each prompt's largest error") + 1].split()

    assert titles(120) == ["prompt", "stage", "cosine", "top-1", "error", "allowed", "step", "before"]
    assert titles(80) == ["prompt", "stage", "top-1", "error", "allowed", "step", "before"]
    assert titles(70) == ["prompt", "stage", "error", "allowed", "step", "before"]


def test_passing():
    lines = printed(passing())
    assert lines[2] == "fp16, fold weights, against the checkpoint it was built from"
    assert re.search(r"^tensorrt-rtx +same +longest, decode 7 +5.0e-02 +7.5e-02 +1.7e-02 of 7.5e-02$", lines[7])
    assert sum(line.startswith("image  ") for line in lines) == 4  # the worst of each step, no more
    text = " ".join(lines)
    assert "Exact match on 120 questions" in text and "99.2 %" in text
    assert "DIFFERS" not in text and "blocks" not in text


def test_what_is_no_part_of_the_verdict_stands_apart_and_cannot_be_read_as_a_failure():
    lines = printed(passing(), color_system="standard", force_terminal=True)
    headings = [i for i, line in enumerate(lines) if "(not part of the verdict)" in line]
    assert len(headings) == 2 and all("For information: " in lines[i] and not lines[i - 1] for i in headings)
    told = "\n".join(lines[headings[0] : -1])
    assert "\x1b[31m" not in told and "differ" not in told.lower() and "same" not in told
    assert "same as the checkpoint" in lines[-1] and not lines[-2]


def test_differing():
    lines = printed(differing())
    assert re.search(r"^tensorrt-rtx +not run +- +- +-$", lines[7])
    assert sum("DIFFERS" in line for line in lines) == 1 + 44 + 3  # the step, its lines, and blocks
    assert "image, tokens: 3 of 10 differ; first token 4: 17, not 23, by a margin of 8.1e-01" in lines
    first = next(i for i, line in enumerate(lines) if line.startswith("blocks of onnxruntime, prompt image"))
    assert [line.split()[0] for line in lines[first + 2 : first + 7]] == ["5", "6", "7", "8", "9"]
    where = "layer 7, stage down of the prefill graph, on onnxruntime, prompt image"
    assert lines[-4] == f"first divergence: {where}"
    assert lines[-3].startswith("given the same inputs, this stage by itself is off by 3.1e-01")
    assert lines[-2] == "required but not run: tensorrt-rtx: no NVIDIA GPU was found here"


def test_a_backend_that_was_not_required_says_why_it_did_not_run():
    report = differing().model_copy(update={"required": ()})
    assert "tensorrt-rtx was not run: no NVIDIA GPU was found here" in printed(report)


def test_controls():
    lines = printed(controls(), width=80)
    assert lines[-1] == "verdict: same as the checkpoint (exit 1: a planted fault was not found)"
    text = "\n".join(lines)
    assert re.search(r"^pooled feature counted twice  found   text stream layer 3, encode  attention.up$", text, re.M)
    assert re.search(r"^transposed weight +MISSED  text stream layer 3, encode  elsewhere$", text, re.M)
    assert re.search(r"^padding is read +n/a +- +-$", text, re.M)
    assert "transposed weight: text stream layer 2, attention.up" in lines
    assert "padding is read: no layer keeps its self-attention" in lines


def test_damaged():
    lines = printed(ALL["damaged"]())
    assert sum(line.endswith("was not run: the bundle is damaged") for line in lines) == 4
    assert lines[-3] == "damaged file fold.onnx: its sha256 is not the manifest's"
    assert lines[-2] == "copy the bundle again, or build it again with --force"


def test_nothing():
    assert [line for line in printed(ALL["nothing"]()) if line] == 2 * [
        "verdict: not run (exit 3: no backend ran the bundle's graphs)"
    ]


def test_what_is_no_number_reads_well():
    text = "\n".join(printed(ALL["broken"]()))
    assert "not finite" in text and "None" not in text and "inf" not in text.replace("information", "")
