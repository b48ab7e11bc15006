"""The comparison itself: it must be able to fail."""

import json
import math
import subprocess
import sys

import pytest
import torch

from eas_export.verify.lines import compare, compare_tokens, worst
from eas_export.verify.metrics import spread, stream_units


def test_error_against_tolerance():
    line = compare("x", torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]), 0.5)
    assert (line.error, line.ok) == (0.5, True)
    assert not compare("x", torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]), 0.49).ok


@pytest.mark.parametrize(
    "got", [torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.inf]), torch.ones(3), torch.ones(1, 2)]
)
def test_nan_infinity_and_other_shapes_differ(got):
    line = compare("x", got, torch.ones(2), 1e9)
    assert line.error is None and not line.ok


def test_spread_is_the_deviation_or_one():
    assert spread(torch.tensor([1.0, 3.0])) == 1.0
    assert spread(torch.full((4,), 7.0)) == 1.0
    assert spread(torch.tensor([0.0, 6.0])) == 3.0


def test_another_token_counts_by_its_margin():
    logits = torch.tensor([[[0.0, 1.0, 0.9]], [[5.0, 1.0, 0.0]]])  # [2, 1, 3]
    assert compare_tokens("t", torch.tensor([[1], [0]]), logits, 0.01).note == "all 2 equal"
    close = compare_tokens("t", torch.tensor([[2], [0]]), logits, 0.06)
    assert close.ok and close.note == "1 of 2 differ; first token 1: 2, not 1, by a margin of 1.0e-01"
    assert not compare_tokens("t", torch.tensor([[2], [0]]), logits, 0.04).ok
    assert not compare_tokens("t", torch.tensor([[1], [1]]), logits, 1.0).ok


def test_the_worst_line_stands_for_all():
    lines = [compare(str(i), torch.tensor([1.0 + e]), torch.ones(1), 0.1) for i, e in enumerate((0.05, 0.2, 0.01))]
    line = worst("all", lines)
    assert not line.ok and line.error == pytest.approx(0.2) and line.note == "largest of 3: 1"


NEW_METRIC = """
import io, json
from eas_export.verify import metrics

row = metrics.Metric("mean_error", "mean error", lambda a, b: float((a - b).abs().mean()), metrics.number, "mean of differences")
metrics.METRICS = (*metrics.METRICS, row)

import torch
from rich.console import Console
from eas_export.cli.report import print_report
from eas_export.verify.html import render
from eas_export.verify.lines import compare
from eas_export.verify.report import ParityReport, StepReport, Verdict
from eas_export.cli.schemas import report_schema

line = compare("prefill", torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]), 1.0)
step = StepReport(name="s", what="", before="", tolerance=0.1, reason="", cases={"text": (line,)})
common = dict(reference="r", precision="fp32", fold="none", files=())
report = ParityReport(verdict=Verdict.SAME, steps=(step,), **common)
console = Console(width=200, file=io.StringIO(), record=True)
print_report(report, console)
schema = report_schema("parity-report")["$defs"]["Line"]["properties"]["mean_error"]
shown = {"terminal": console.export_text(), "page": render(report, "b")}
print(json.dumps({"line": line.model_dump(), "schema": schema} | shown))
"""


def test_a_new_metric_is_one_row():
    """Lines, the JSON Schema, the terminal's table and the page follow from it."""
    done = subprocess.run([sys.executable, "-c", NEW_METRIC], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["line"]["mean_error"] == 0.25
    assert found["schema"]["description"] == "mean of differences"
    for shown in ("terminal", "page"):
        assert "mean error" in found[shown] and "2.5e-01" in found[shown]


def test_a_streams_unit_knows_its_outliers():
    """As pretrained language models have them: one value that a later block takes away again, whose rounding stays."""
    even = torch.tensor([-1.0, 1.0]).repeat(5000)
    outlier = even.clone()
    outlier[7] = 1000.0
    blocks = {("", 0): even, ("", 1): outlier, ("", 2): even, ("other", 0): even}
    units = stream_units(blocks)
    assert units["", 0] == units["other", 0] == pytest.approx(1.0)
    assert units["", 1] == units["", 2] == pytest.approx(20.0)
    assert spread(outlier) == pytest.approx(10.05, abs=0.01)
