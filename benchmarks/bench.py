"""`eas-export bench` at a real size: a LaVIN-shaped model with random weights, all baselines that run here, the report and its bars.

    python benchmarks/bench.py --shape 1B --precision fp32     30 GB of disk in --scratch, 20 GB of memory, half an hour on two cores

Builds the bundle in fold mode weights, times it against all baselines (eas_export/bench/decoder.py), and then once more against those that
need only the bundle. A ratio of the second run outside the spread of the first one is counted as a disagreement.
"""

import argparse
import tempfile
from pathlib import Path

from common import RESULTS, write_result
from synthetic import SHAPES, write_checkpoint

from eas_export.bench.plots import draw
from eas_export.bench.report import BenchReport
from eas_export.bench.run import bench
from eas_export.cli.bench_report import print_report
from eas_export.cli.output import stdout_console
from eas_export.cli.progress import make_progress
from eas_export.pipeline import build
from eas_export.system.files import written_whole

PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-genai", "transformers")
AGAIN = ("onnxruntime-lowrank", "onnxruntime-floor", "pytorch-published", "pytorch-weights")
STEP, PLAIN = "decode x1", "onnxruntime-plain"
# The largest value allowed. A share that has to be reached is given as its inverse
BARS = {
    "weights_over_floor": 1.02,
    "lowrank_over_floor": 1.05,
    "bandwidth_over_decode": 1 / 0.9,
    "plain_over_genai": 1 / 2,
    "plain_opened_seconds": 1.0,
    "weights_over_published": 1 / 1.4,
    "disagreements": 0,
}

READERS = (
    "ONNX Runtime's product of one row with a matrix reads less than PyTorch's, which is the probe: in a model of such products alone 27 to 29 GB/s "
    "on an Intel Xeon with two cores where the probe reads 31 to 33, with every setting of a session that was tried (spinning, packing, a transposed matrix)"
)
OUT_OF_REACH = {
    "plain_over_genai": "both are bound by memory and read every weight once: onnxruntime-genai 0.18 with ONNX Runtime 1.32 takes 1.0 times as long on an "
    "AMD EPYC and 1.7 times as long on an Intel Xeon, with two cores each, where the base model's step reaches what the probe reads or most of it",
    "disagreements": "all of them are of parts with 3 to 6 rounds, whose 10th to 90th percentile is hardly more than their least and largest, and the second "
    "run has fewer baselines, which leaves the fold and whole answers more of the machine's memory; ratios of a step, of 24 rounds, agree",
    "bandwidth_over_decode": READERS,
    "weights_over_published": f"a step of either reads every weight once and is bound by memory, so that little is left to gain. {READERS}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1B")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=24, help="trials of each baseline for a step")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    given = parser.parse_args()
    name, progress = f"bench_{given.shape}_{given.precision}", make_progress(False)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        checkpoint = write_checkpoint(Path(scratch) / "checkpoint", SHAPES[given.shape])
        options = {"precision": given.precision, "fold": "weights", "max_prompt": 512, "max_tokens": 1024}
        bundle = build(checkpoint, Path(scratch) / given.shape, verify=False, progress=progress, **options).bundle
        report = bench(bundle, checkpoint, rounds=given.rounds, progress=progress)
        print_report(report, stdout_console())
        again = bench(bundle, against=AGAIN, rounds=given.rounds, progress=progress)
    with written_whole(RESULTS / f"{name}.svg") as file:
        draw(report, file, "svg")
    figures = figures_of(report) | disagreements(report, again)
    write_result(name, figures | {"report": report.model_dump(mode="json")}, BARS, PACKAGES, OUT_OF_REACH)


def figures_of(report: BenchReport) -> dict[str, float | None]:
    """The figures that have bars; None for what was not timed."""
    claims = {claim.name: claim.ratio.p50 for claim in report.claims}
    share = next((roof.share.p50 for roof in report.roofline if roof.part == STEP), None)
    genai, published = (
        claims.get(name) for name in ("onnxruntime-genai against the base model", "eager as published against folded")
    )
    opened = report.baselines[PLAIN].opened_seconds
    figures = {
        "weights_over_floor": claims.get("folded against no adapters"),
        "lowrank_over_floor": claims.get("low-rank against no adapters"),
        "bandwidth_over_decode": share and 1 / share,
        "plain_over_genai": genai and 1 / genai,
        "plain_opened_seconds": opened,
        "weights_over_published": published and 1 / published,
    }
    return {name: value and round(value, 4) for name, value in figures.items()}


def disagreements(report: BenchReport, again: BenchReport) -> dict:
    """Of the comparisons in both runs, those whose second median lies outside the first's 10th to 90th percentile."""
    first = {(each.of, each.part): each.ratio for each in report.against}
    both = [(each, first[each.of, each.part]) for each in again.against if (each.of, each.part) in first]
    apart = [
        {"of": each.of, "part": each.part, "first": before.model_dump(), "second": each.ratio.model_dump()}
        for each, before in both
        if not before.p10 <= each.ratio.p50 <= before.p90
    ]
    return {"compared_twice": len(both), "disagreements": len(apart), "apart": apart}


if __name__ == "__main__":
    main()
