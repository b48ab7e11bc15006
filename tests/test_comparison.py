"""The systems that EAS is compared with, in the scripts under benchmarks/."""

import json

import comparison
import pytest
import readme_tables
from common import RESULTS, environment
from meter_flops import config_of
from meter_systems import DAS, DAS_SHARE, off_network, systems
from synthetic_meter import SHAPES

from eas_export.bench.report import BenchReport
from eas_export.core.progress import Progress

GIVEN = comparison.Given(prompt=6, new=3, rounds=2)


@pytest.mark.parametrize("task", SHAPES)
def test_formulas_of_meters_layers_are_the_networks(task):
    assert off_network(config_of(SHAPES[task], "published")) == 0


def test_structures_have_the_papers_numbers_of_parameters():
    """In millions, as the paper rounds them, and Scaled PA without its norms."""
    counts = {
        name: round(row["parameters"] / 1e6, 2) for name, row in systems(SHAPES["vqa"]).items() if row["parameters"]
    }
    assert counts == {"shallow prompt": 0.31, "deep prompt": 1.84, "LoRA": 0.29, "Adapter": 5.34, "Scaled PA": 3.56}


def test_das_saves_on_meter_what_its_paper_says():
    assert abs(systems(SHAPES["vqa"])[DAS]["share_more"] - DAS_SHARE) < 0.001


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Of four systems over one base model, in the tiny shape."""
    names = (comparison.FOLDED, comparison.UNFOLDED, comparison.LORA, "das-4", comparison.OURS)
    folder = tmp_path_factory.mktemp("comparison")
    return comparison.build_all(folder, comparison.SHAPES["tiny"], names, GIVEN, Progress())


def test_systems_are_built_over_one_base_and_skip_in_proportion(bundles):
    """4 and 12 of 32 are 1 and 3 of 8."""
    skips = {name: len(bundle.manifest.plan.skipped) for name, bundle in bundles.items()}
    assert skips == {"lavin-folded": 0, "lavin-unfolded": 0, "lora": 0, "das-4": 1, "eas-12": 3}
    stores = {bundle.path / "weights.safetensors" for bundle in bundles.values()}
    assert all(store.samefile(bundles[comparison.UNFOLDED].path / "weights.safetensors") for store in stores)
    systems = {name: bundle.manifest.checkpoint_config for name, bundle in bundles.items()}
    assert [systems[name].router for name in bundles] == ["modality", "modality", None, "modality", "prompt"]
    assert systems["das-4"].site == "layer"


def test_what_is_counted_falls_with_what_is_skipped(bundles):
    counts = {name: comparison.counted(bundle, GIVEN) for name, bundle in bundles.items()}
    folded, lora, ours = (counts[name] for name in (comparison.FOLDED, comparison.LORA, comparison.OURS))
    assert folded["sample_flops"] == lora["sample_flops"] and folded["kv_bytes_per_token"] == lora["kv_bytes_per_token"]
    assert ours["kv_bytes_per_token"] == lora["kv_bytes_per_token"] * 5 / 8
    shape = comparison.SHAPES["tiny"]
    layer = 4 * shape.dim**2 + 3 * shape.dim * shape.ffn  # matrices
    pairs = 6 * 7 // 2 + 7 + 8 + 9
    das = 2 * (layer - 2 * shape.dim * 4 * shape.rank) * 9 + 4 * shape.dim * pairs
    assert lora["sample_flops"] - counts["das-4"]["sample_flops"] == das
    read = comparison.reading(
        (4, 4), shape, lora, GIVEN
    )  # of one layer, with an adapter of the same width in its place
    assert lora["sample_flops"] - read["sample_flops"] == das
    assert lora["weight_bytes"] - read["weight_bytes"] == 4 * (layer - 2 * shape.dim * 4 * shape.rank)


def test_the_table_shows_a_reports_figures(bundles, monkeypatch):
    text = (RESULTS / "bench_1B_fp32.json").read_text("utf-8")
    report = BenchReport.model_validate(json.loads(text)["report"])
    names = {
        comparison.FOLDED: report.subject,
        comparison.OURS: "onnxruntime-lowrank",
        comparison.LORA: "onnxruntime-plain",
        comparison.UNFOLDED: "onnxruntime-unskipped",
    }
    shape = comparison.SHAPES["1B"]
    rows = {}
    for name, timed in names.items():
        counts = comparison.counted(bundles[name], GIVEN)
        rows[name] = comparison.described(name, shape) | counts | comparison.timed(report, timed)
    assert rows[comparison.FOLDED]["sample_over_lavin_folded"] == {"p10": 1.0, "p50": 1.0, "p90": 1.0}
    ratio = next(c.ratio for c in report.against if (c.of, c.part) == ("onnxruntime-lowrank", "answer"))
    assert rows[comparison.OURS]["sample_over_lavin_folded"] == ratio.model_dump()
    assert comparison.claims(rows)["eas_over_lavin_folded"] == round(ratio.p50, 4)
    rows["ffn-12"] = comparison.reading((0, 12), shape, rows[comparison.LORA], GIVEN)
    work = report.workload.model_dump(mode="json")
    mixed = {"prompts": 8, "step_over_one_modality": ratio.model_dump()}
    result = {
        "systems": rows,
        "mixed_batch": mixed,
        "shape": "1B",
        "precision": "fp32",
        "workload": work,
    } | environment()
    monkeypatch.setattr(readme_tables, "load", lambda name: result)
    text = readme_tables.comparison_table()
    fair, unfolded = 1 / ratio.p50, report.baselines["onnxruntime-unskipped"].parts["answer"].seconds
    assert f"here {fair:.2f} times with 12 of 32 attentions skipped" in text and "are 1.31 and 2.19:" in text
    assert f"| LaVIN, beside the weights | | {over(report, 'onnxruntime-unskipped')}" in text
    assert f"a step of 8 prompts takes {ratio.p50:.3f} (" in text
    assert f"{unfolded.p50:.2f} s" in text and "| feed-forward networks * | 12 of 32 | | | | | | " in text


def over(report: BenchReport, name: str) -> str:
    ratio = next(c.ratio for c in report.against if (c.of, c.part) == (name, "answer"))
    return f"{ratio.p50:.3f} ({ratio.p10:.3f} to {ratio.p90:.3f})"
