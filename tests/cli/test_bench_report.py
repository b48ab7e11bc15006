"""`eas-export bench` prints what a terminal of 80 columns shows whole, and sets the exported model off from the others."""

import json
from io import StringIO

import pytest
from common import RESULTS
from rich.console import Console

from eas_export.bench import cross_encoder, decoder
from eas_export.bench.report import BenchReport
from eas_export.cli.bench_report import print_report

REPORT = BenchReport.model_validate(json.loads((RESULTS / "bench_1B_fp32.json").read_text())["report"])
TIMED = {name: each for name, each in REPORT.baselines.items() if not each.why_not}


def on_a_gpu() -> BenchReport:
    """The longest names that there are."""
    names = sorted(decoder.BASELINES, key=len, reverse=True)
    return REPORT.model_copy(update={"baselines": dict(zip(names, TIMED.values()))})


def of_a_cross_encoder() -> BenchReport:
    """One part, timed as the step, and comparisons of nothing else."""
    results = [each.model_copy(update={"parts": {}}) for each in TIMED.values()]
    names = {
        "subject": "onnxruntime-offline",
        "fold": "offline",
        "baselines": dict(zip(cross_encoder.BASELINES, results)),
    }
    return REPORT.model_copy(update=names | dict(claims=(), kv=None, break_even=None, against=()))


def printed(report: BenchReport, columns: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=columns, highlight=False, markup=False)
    print_report(report, console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("report", [REPORT, on_a_gpu(), of_a_cross_encoder()], ids=["CPU", "GPU", "cross-encoder"])
def test_every_line_fits_in_80_columns_and_no_name_is_cut(report):
    lines = printed(report)
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    steps = lines[lines.index(next(line for line in lines if line.startswith("a step of one row"))) :]
    assert {name for name, each in report.baselines.items() if each.step} <= {line.split(" ")[0] for line in steps}


def test_steps_are_bars_in_order_and_the_exported_model_has_its_own():
    lines = printed(REPORT)
    start = next(number for number, line in enumerate(lines) if line.startswith("a step of one row"))
    rows = [line.split() for line in lines[start + 2 : start + 2 + len(TIMED)]]
    assert [row[0] for row in rows] == sorted(TIMED, key=lambda name: TIMED[name].step.seconds.p50)
    lengths = [len(row[1]) for row in rows]
    assert lengths == sorted(lengths) and lengths[0] == round(lengths[-1] * 162.06 / 358.63)
    assert {row[0] for row in rows if "█" in row[1]} == {"onnxruntime-weights", "onnxruntime-lowrank"}
    assert rows[0][2:6] == ["162", "ms", "202", "ms"]


def test_the_exported_model_is_the_subjects_backend_in_each_fold_mode():
    engines = REPORT.model_copy(update={"subject": "tensorrt-rtx-weights-bound"})
    ours = {name for name in decoder.BASELINES if engines.role(name) == "ours"}
    assert ours == {
        f"tensorrt-rtx-{fold}-{weights}" for fold in ("weights", "lowrank") for weights in ("bound", "embedded")
    }
    assert engines.role("pytorch-captured-floor") == "bound" and engines.role("onnxruntime-weights") == "other"
