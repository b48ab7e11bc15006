"""`eas-export bench` with real parts: ONNX Runtime and PyTorch in processes of their own, on the goldens' bundles."""

import json
from xml.etree import ElementTree

import pytest
import torch
from conftest import copy_of, golden_case, made_once
from meter_cases import MeterCase
from PIL import Image

from eas_export.backends.opening import open_runtime
from eas_export.bench import cross_encoder, decoder
from eas_export.bench.baseline_bundles import BUNDLES, BaselineBundles
from eas_export.bench.report import BenchReport
from eas_export.bench.run import folder_for_bundles
from eas_export.bench.runners import RUNNERS
from eas_export.bench.settings import Workload
from eas_export.bench.stages import ANSWER, FIRST, FULL, PREFILL, VISION
from eas_export.bundle.bundle import open_bundle
from eas_export.cli.schemas import report_schema, schema_file
from eas_export.core.errors import OutOfSpace, UserError
from eas_export.core.progress import Progress
from eas_export.export import derived_bundle
from eas_export.families.contract import Sources
from eas_export.generation.generate import generate

QUICK = ("--prompt-tokens", 6, "--new-tokens", 3, "--batch", "1,2", "--rounds", 2)
CASE = golden_case("first")


@pytest.fixture(scope="session")
def bundles(bundle_of, tmp_path_factory):
    """bundles(name) -> a bundle made from the one in fold mode weights; all are made together, once."""
    workload = Workload(prompt_tokens=6, new_tokens=3, batches=(1, 2))
    with made_once(tmp_path_factory, "bundles", CASE.name) as out:
        if not out.exists():
            out.mkdir()
            own = copy_of(bundle_of(CASE), out / "own")  # the others link to its weights
            made = BaselineBundles(own, Sources(CASE.folder), workload, out, Progress())
            for name in ("lowrank", "plain"):
                made.place(name)
    return lambda name: open_bundle(out / name, check=True)


def test_everything_that_needs_only_the_bundle_is_timed(command, bundle_of, tmp_path):
    bundle = bundle_of(CASE, fold="lowrank").path
    plot = tmp_path / "plot.svg"
    names = "pytorch-published,pytorch-lowrank,onnxruntime-none,tensorrt-rtx-weights-bound"
    system = f"lavin-folded={bundle_of(golden_case('noskip')).path}"
    code, out, _ = command(
        "bench", bundle, *QUICK, "--against", names, "--against-ckpt", system, "--plot", plot, "--json"
    )
    report = BenchReport.model_validate_json(out)
    assert code == 0 and not [*bundle.parent.glob(f".{bundle.name}.bench")]
    assert report.subject == "onnxruntime-lowrank" and report.workload.batches == (1, 2)
    ran = {name for name, each in report.baselines.items() if not each.why_not}
    assert ran == {"onnxruntime-lowrank", "pytorch-published", "pytorch-lowrank", "lavin-folded"}
    assert report.baselines["lavin-folded"].what == "LaVIN, adapters folded into the weights"
    assert report.baselines["lavin-folded"].parts[PREFILL].trials == 2
    assert {each.part for each in report.against if each.of == "lavin-folded"} >= {PREFILL, "decode x1", ANSWER}
    ran.remove("lavin-folded")
    assert report.baselines["onnxruntime-none"].why_not.startswith(
        "the bundle has no fold mode 'none', only weights, lowrank"
    )
    assert "no GPU" in report.baselines["tensorrt-rtx-weights-bound"].why_not
    for name in ran:
        each = report.baselines[name]
        assert set(each.parts) == {VISION, PREFILL, FIRST, FULL, ANSWER} and [s.rows for s in each.steady] == [1, 2]
        assert each.memory.private_bytes > 1e7 and each.opened_seconds > 0 and not each.refused
        assert all(timing.seconds.p50 > 0 and timing.pieces >= timing.trials >= 2 for timing in each.parts.values())
    assert {(c.of, c.part) for c in report.against} >= {("pytorch-published", "decode x2"), ("pytorch-lowrank", ANSWER)}
    assert [claim.name for claim in report.claims] == [
        "eager as published against low-rank",
        "low-rank against LaVIN, folded",
    ]
    assert {roof.part for roof in report.roofline} == {VISION, PREFILL, FULL, "decode x1", "decode x2"}
    assert report.rates.read_bytes_per_second.p50 > 1e8 and report.causes == () and report.break_even is None
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_a_cross_encoder_is_timed_in_passes(command, meter_bundle_of, tmp_path):
    bundle, plot = meter_bundle_of(MeterCase("vqa_skip10")).path, tmp_path / "plot.png"
    code, out, err = command("bench", bundle, *QUICK, "--against", "pytorch-offline", "--plot", plot)
    assert code == 0, err
    assert "passes per second" in out and "leaving eager mode" in out and "encode x2" in out and "tokens" not in out
    assert Image.open(plot).size[0] > 1000


def test_the_other_fold_mode_lies_over_the_same_weights(bundles):
    lowrank, own = bundles("lowrank"), bundles("own")
    assert (lowrank.path / "weights.safetensors").samefile(own.path / "weights.safetensors")
    assert lowrank.manifest.fold == "lowrank" and lowrank.manifest.limits.max_batch == 2
    prompts, forced = CASE.prompts("txt1").prompts, CASE.prompts("txt1").forced_tokens
    got, want = (generate(open_runtime(b, "onnxruntime"), prompts, forced=forced).logits for b in (lowrank, own))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_the_model_with_every_attention_is_the_checkpoints(bundles):
    m = bundles("unskipped").manifest
    assert m.plan.skipped == () and m.fold == "lowrank" and m.limits.max_batch == 2 and m.base is not None


def test_the_base_model_has_neither_skips_nor_adapters(bundles):
    plain = bundles("plain").manifest
    assert plain.plan.skipped == () and plain.config.kept_adapter is None and plain.fold == "none"


def test_another_checkpoint_is_refused_before_any_work(refused, bundle_of):
    line = refused("bench", bundle_of(CASE).path, "--ckpt", golden_case("half_13B").folder)
    assert "the bundle was not built from this checkpoint (--ckpt" in line


def test_one_bench_runs_at_a_time_and_leftovers_of_a_killed_one_are_removed(bundle_of, tmp_path):
    bundle = bundle_of(CASE)
    with folder_for_bundles(bundle, tmp_path) as place:
        (place / "lowrank").mkdir()
        with pytest.raises(UserError, match="another bench of this bundle is running"):
            folder_for_bundles(bundle, tmp_path).__enter__()
        assert place.is_dir()
    assert not place.exists()
    (place / "unskipped").mkdir(parents=True)
    with folder_for_bundles(bundle, tmp_path) as place:
        assert [*place.iterdir()] == []


def test_a_full_disk_is_a_reason_not_to_run(bundle_of, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(derived_bundle, "link_or_copy", full)
    given = BaselineBundles(bundle_of(CASE), None, Workload(prompt_tokens=6, new_tokens=3), tmp_path, Progress())
    with pytest.raises(OutOfSpace, match="No space left on device"):
        given.place("floor")


def test_baselines_name_known_bundles_and_runners():
    for table in (decoder.BASELINES, cross_encoder.BASELINES):
        assert {each.bundle for each in table.values()} <= set(BUNDLES)
        assert {each.runner for each in table.values()} <= set(RUNNERS)


@pytest.mark.parametrize(
    "options, said",
    [
        (
            ("--against", "onnxruntime-cuda"),
            "unknown baseline 'onnxruntime-cuda' (--against): choose from onnxruntime-weights",
        ),
        (("--prompt-tokens", 4000), "--prompt-tokens is 4000, out of range 1 to 128 (--prompt-tokens)"),
        (("--new-tokens", 4000), "--new-tokens is 4000, out of range 1 to 192 (--new-tokens)"),
        (("--batch", "0,2"), "--batch is [0, 2], with sizes out of range 1 to 1024 (--batch)"),
        (("--batch", "two"), "'two' is not a list of numbers like 1,2,4,8"),
        (("--rounds", 1), "--rounds is 1 (--rounds): give 2 to 10000: one trial has no spread"),
        (("--rounds", 20000), "--rounds is 20000 (--rounds): give 2 to 10000"),
        (
            ("--plot", "plot.pdf"),
            "--plot is not a .png or .svg file outside the bundle (--plot plot.pdf): give a name that ends in .png or .svg",
        ),
        (("--plot", "no/such/plot.png"), "is not a writable folder"),
        (
            ("--vision", "clip.pt"),
            "--weights, --vision, --base-weights and --tokenizer need --ckpt (bench): pass --ckpt too",
        ),
        (("--scratch", "no/such"), "the scratch folder is not there, or cannot be written to (--scratch no/such)"),
        (("--device", "cuda"), "PyTorch sees no GPU here (--device cuda)"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(refused, bundle_of, options, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert said in refused("bench", bundle_of(CASE).path, *options)


def test_without_a_checkpoint_bundles_that_need_one_say_so(bundle_of, tmp_path):
    given = BaselineBundles(bundle_of(CASE), None, Workload(prompt_tokens=6, new_tokens=3), tmp_path, Progress())
    for name in ("unskipped", "plain", "genai"):
        with pytest.raises(UserError, match="pass --ckpt too"):
            given.place(name)


def test_the_schema_is_the_reports():
    committed = json.loads(schema_file("bench-report").read_text())
    assert committed == report_schema("bench-report"), "run python -m eas_export.cli.schemas"
