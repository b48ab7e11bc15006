"""The staged ledger on the published code's cases, and the faults that it has to find."""

from dataclasses import replace

import pytest
from conftest import LAVIN_CASES, copy_of, golden_case

import eas_export
from eas_export.verify import decoder
from eas_export.verify.compare import Request, compare_bundle
from eas_export.verify.controls import plant
from eas_export.verify.decoder_faults import CONTROLS
from eas_export.verify.lines import Line

FOLDS = ("weights", "lowrank")


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("name", LAVIN_CASES)
def test_every_golden_case_passes_and_every_fault_that_applies_is_found(bundle_of, tmp_path, name, fold):
    case = golden_case(name)
    bundle = copy_of(bundle_of(case, fold=fold), tmp_path / "bundle")
    report = eas_export.verify(bundle, case.folder, negative_controls=True)
    assert report.exit_code == 0, (report.first_divergence, report.controls)
    wanted = ["pytorch, folded", "pytorch, the bundle's weights", "onnxruntime"]
    assert [step.name for step in report.steps] == wanted[fold == "lowrank" :] and all(s.ran for s in report.steps)
    names = ["text", "image", "shortest", "longest"]
    if fold == "lowrank":
        names.append("1 to 4 in one batch")
    assert all(list(step.cases) == names for step in report.steps)
    assert [block.layer for block in report.blocks] == list(range(case.plan.sites)) and all(b.ok for b in report.blocks)
    assert [control.name for control in report.controls] == list(CONTROLS)
    for control in report.controls:
        place = CONTROLS[control.name].place(bundle.manifest)
        assert control.why_not == (place if isinstance(place, str) else "")
        if not control.why_not:
            assert control.ok and control.found.layer == control.layer, control
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]  # copies and debug graphs are gone
    assert sum(not control.why_not for control in report.controls) >= (2 if name == "all" else 4)


OF_EAS = [name for name in CONTROLS if name != "weights of the other modality"]


@pytest.mark.parametrize("control", OF_EAS)
def test_verify_of_a_planted_fault_exits_with_1(bundle_of, tmp_path, command, control):
    case = golden_case("first")
    copy = plant(copy_of(bundle_of(case), tmp_path / "own"), CONTROLS[control], tmp_path / "copy")
    code, text, err = command("verify", copy.path, "--ckpt", case.folder)
    place = CONTROLS[control].place(copy.manifest)
    assert code == 1, err
    assert text.startswith("verdict: differs (exit 1: ") and f"first divergence: layer {place.layer}, stage " in text


def test_a_fault_that_is_not_found_fails(bundle_of, tmp_path, monkeypatch):
    """A verification that cannot tell right from wrong: its own controls say so."""
    case = golden_case("half_13B")
    bundle = copy_of(bundle_of(case), tmp_path / "own")
    blind = Line(stage="prefill", error=0.0, tolerance=1.0, ok=True)
    monkeypatch.setattr(decoder.DecoderLedger, "compare", lambda *_: (blind,))
    report = eas_export.verify(bundle, case.folder, negative_controls=True)
    assert report.verdict == "same as the checkpoint" and report.exit_code == 1
    assert all(control.found is None and not control.ok for control in report.controls if not control.why_not)


def test_each_step_is_compared_with_the_one_before(bundle_of):
    case = golden_case("half_13B")
    report = compare_bundle(bundle_of(case, "fp16"), Request(case.checkpoint, "x"))
    folded, stored, graphs = report.steps
    assert report.ok
    assert [step.before for step in report.steps] == ["pytorch, unfolded", folded.name, stored.name]
    for step, tolerance in zip(report.steps, (1e-4, 5e-2, 5e-2)):
        assert step.tolerance == tolerance and step.reason
    decode = {step.name: line for step in report.steps for line in step.cases["text"] if line.stage == "decode 2"}
    assert decode[folded.name].before == decode[folded.name].error and decode[folded.name].relative < 1e-5  # folding
    # rounding the weights, and rounding every operation, are told apart
    assert decode[stored.name].before == pytest.approx(decode[stored.name].error, rel=0.01)
    assert 0 < decode[graphs.name].before < decode[graphs.name].error + decode[stored.name].error
    assert 0 < decode[stored.name].kl < 1e-3 and decode[stored.name].top1 == 1 and decode[stored.name].cosine > 0.9999


def test_a_step_that_leaves_the_one_before_fails_even_where_the_reference_is_near(bundle_of, monkeypatch):
    """fp16's tolerance would let a wrong fold in float32 pass; its own does not."""
    case = golden_case("half_13B")

    def worse(block_layer, block, tokens, fed):
        return tuple(part * 1.001 for part in decoder.unfolded(block_layer, block, tokens, fed))

    monkeypatch.setattr(decoder, "folded", worse)
    report = compare_bundle(bundle_of(case, "fp16"), Request(case.checkpoint, "x", thorough=False))
    assert not report.ok and report.first_divergence.step == "pytorch, folded"


def test_a_build_leaves_the_longest_prompt_and_what_is_for_information(bundle_of):
    case = golden_case("half_13B")
    short = compare_bundle(bundle_of(case), replace(Request(case.checkpoint, "x"), thorough=False))
    assert short.ok and list(short.steps[0].cases) == ["text", "image", "shortest"]
    assert short.blocks == short.shortcuts == ()


def test_how_far_the_published_ways_would_be(bundle_of):
    case = golden_case("first")
    report = compare_bundle(bundle_of(case), Request(case.checkpoint, "x"))
    assert {(each.name, each.case) for each in report.shortcuts} == {
        (name, each)
        for name in ("published fold", "published dynamic decode")
        for each in ("text", "image", "shortest", "longest")
    }
    assert all(0.1 < each.relative < 10 for each in report.shortcuts)
    assert (
        compare_bundle(bundle_of(case), Request(None, "x")).shortcuts == ()
    )  # what was folded cannot be told from a bundle
