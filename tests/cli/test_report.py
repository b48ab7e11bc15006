"""A report on the terminal."""

import io
import re

import pytest
from rich.console import Console
from sample_reports import ALL

from eas_export.cli.report import print_report


def printed(name: str) -> list[str]:
    console = Console(highlight=False, markup=False, width=120, record=True, file=io.StringIO())
    print_report(ALL[name](), console)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("name", ALL)
def test_the_verdict_is_the_last_line(name):
    assert printed(name)[-1].startswith(f"verdict: {ALL[name]().verdict}")


def test_passing():
    lines = printed("passing")
    assert lines[0] == "fp16, fold weights, against the checkpoint it was built from"
    assert re.search(r"^tensorrt-rtx +same +longest, decode 7 +5.0e-02 +7.5e-02 +1.7e-02 of 7.5e-02$", lines[5])
    assert sum(line.startswith("image  ") for line in lines) == 4  # the worst of each step, no more
    text = " ".join(lines)
    assert "for information, no verdict" in text and "99.2 %" in text
    assert "DIFFERS" not in text and "blocks" not in text


def test_differing():
    lines = printed("differing")
    assert re.search(r"^tensorrt-rtx +not run +no NVIDIA GPU was found here ", lines[5])
    assert sum("DIFFERS" in line for line in lines) == 1 + 44 + 3  # the step, its lines, and blocks
    first = next(i for i, line in enumerate(lines) if line.startswith("blocks of onnxruntime, prompt image"))
    assert [line.split()[0] for line in lines[first + 2 : first + 7]] == ["5", "6", "7", "8", "9"]
    assert lines[-3] == "required and not run: tensorrt-rtx: no NVIDIA GPU was found here"
    assert lines[-2].startswith("given the same inputs, this stage by itself is off by 3.1e-01")
    where = "layer 7, stage down of the prefill graph, on onnxruntime, prompt image"
    assert lines[-1] == f"verdict: differs, first diverges at {where}"


def test_damaged():
    lines = printed("damaged")
    assert sum("not run" in line for line in lines) == 4
    assert lines[-3] == "damaged fold.onnx: its sha256 is not the manifest's; nothing was run"
    assert lines[-2] == "copy the bundle again, or build it again with --force"
    assert lines[-1] == "verdict: differs, first diverges at fold.onnx"


def test_nothing():
    assert printed("nothing") == ["verdict: not run"]


def test_what_is_no_number_reads_well():
    text = "\n".join(printed("broken"))
    assert "not finite" in text and "None" not in text and "inf" not in text
