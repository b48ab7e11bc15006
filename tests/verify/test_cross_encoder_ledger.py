"""The ledger of cross-encoders on the published code's cases, and the faults that it has to find."""

import json

import numpy as np
import onnx
import pytest
from conftest import GOLDEN, copy_of
from meter_cases import MeterCase
from verify.test_divergence import scaled

import eas_export
from eas_export.verify.cross_encoder import make_blocks
from eas_export.verify.cross_encoder_faults import CONTROLS

VQA, NLVR2, RETRIEVAL = (MeterCase(name) for name in ("vqa_skip10", "nlvr2_skip10", "irtr_skip10"))
OLDER = MeterCase("vqa_small_ln")  # opset 21: attention is written out
PLAIN, DAS, DAS_RETRIEVAL = (
    MeterCase(f"comparators/{name}") for name in ("meter/vqa_full", "meter-das/vqa_train", "meter-das/irtr_search")
)
LINEAR = {"adapter without its activation": "no adapter of the text stream has an activation"}
WHY_NOT = {  # controls that do not apply to a system
    "METER-EAS": LINEAR,
    "METER": {"pooled feature counted twice": "no self-attention of the text stream is skipped"} | LINEAR,
    "METER-DAS": {"pooled feature counted twice": "what stands for a skipped layer pools nothing"},
}
STEPS = ["pytorch, folded", "pytorch, the bundle's weights", "onnxruntime"]


@pytest.mark.parametrize(
    "case, precision",
    [
        *((VQA, "fp32"), (NLVR2, "fp32"), (RETRIEVAL, "fp32"), (VQA, "fp16"), (OLDER, "fp32")),
        *((PLAIN, "fp32"), (DAS, "fp16"), (DAS_RETRIEVAL, "fp32")),
    ],
    ids=lambda each: getattr(each, "name", each),
)
def test_every_case_passes_and_every_fault_is_found_where_it_is(meter_bundle_of, tmp_path, case, precision):
    bundle = copy_of(meter_bundle_of(case, precision), tmp_path / "bundle")
    m = bundle.manifest
    report = eas_export.verify(bundle, case.file, negative_controls=True)
    assert report.exit_code == 0, (report.first_divergence, report.controls)
    assert report.verdict == "same as the checkpoint"
    operators = {node.op_type for node in onnx.load(bundle.graph_file("encode"), load_external_data=False).graph.node}
    assert ("Attention" in operators) == (case is not OLDER)
    assert [step.name for step in report.steps] == STEPS and all(step.ran for step in report.steps)
    cases = ["full text", "padded text", "shortest text", "1 to 2 in one batch"]  # a batch of two, and one left over
    assert all(list(step.cases) == cases for step in report.steps)
    stages = ["cls_feats", "scores"] if case.head == "scores" else ["cls_feats", "logits", "answers"]
    assert all([line.stage for line in lines] == stages for step in report.steps for lines in step.cases.values())
    blocks = make_blocks(m)
    assert [(block.part, block.layer) for block in report.blocks] == [(block.part, block.layer) for block in blocks]
    assert len(blocks) == m.config.text.layers + m.config.image.blocks + 2 * m.config.layers
    assert all(block.ok and block.error is not None for block in report.blocks)
    skipping = {(f"{each.stream} stream", each.layer) for each in m.config.attentions(m.plan.skipped)}
    assert {(block.part, block.layer) for block in report.blocks if block.kind == "skipped"} == skipping
    assert [control.name for control in report.controls] == list(CONTROLS)
    assert {control.name: control.why_not for control in report.controls if control.why_not} == WHY_NOT[case.system]
    for control in (each for each in report.controls if not each.why_not):
        assert control.ok, control
        assert (control.found.part, control.found.layer) == (control.part, control.layer) and control.part
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]  # copies and debug graphs are gone


def test_bf16_is_computed_in_float32_and_it_is_said(meter_bundle_of, command):
    bundle = meter_bundle_of(VQA, "bf16")
    code, out, err = command("verify", bundle.path, "--ckpt", VQA.file, "--negative-controls", "--json")
    said = json.loads(out)
    assert code == 0, err
    assert "bf16 computed in float32" in said["steps"][-1]["what"]
    here, padding, pooled, _ = said["controls"]
    assert here["ok"] and here["found"]["stage"] == "ffn.fc1"
    assert all("changes less than bf16 rounding may" in each["why_not"] for each in (padding, pooled))


FAULTS = [  # weight, its factor, where it shows
    (VQA, "vision.blocks.0.fc2.weight", ("image encoder", 0, "fc2")),
    (NLVR2, "vision.blocks.1.qkv.weight", ("image encoder", 1, "qkv")),
    (VQA, "text.layers.1.attention.v.weight", ("text encoder", 1, "attention.v")),
    (RETRIEVAL, "text.layers.0.ffn_norm.weight", ("text encoder", 0, "ffn_norm")),
    (NLVR2, "image_layers.2.cross_attention.k.weight", ("image stream", 2, "cross_attention.k")),
    (VQA, "image_layers.0.attention.up.weight", ("image stream", 0, "attention.up")),
    (VQA, "text.words.weight", ("", None, "text encoder, embedding")),
    (NLVR2, "types", ("", None, "text stream, embedding")),
    (RETRIEVAL, "vision.patch.weight", ("", None, "image encoder, embedding")),
    (VQA, "image_transform.weight", ("", None, "image stream, embedding")),
    (VQA, "text_pooler.weight", ("", None, "cls_feats")),
    (VQA, "head.fc2.weight", ("", None, "logits")),
    (RETRIEVAL, "head.weight", ("", None, "scores")),
    (DAS, "text_layers.1.skipped_adapter.down.weight", ("text stream", 1, "skipped_adapter.down")),
    (DAS, "image_layers.1.adapters.cross_attention.up.bias", ("image stream", 1, "adapters.cross_attention.up")),
    (DAS, "image_layers.4.adapters.ffn.down.bias", ("image stream", 4, "adapters.ffn.down")),
    (PLAIN, "text_layers.5.cross_attention.v.weight", ("text stream", 5, "cross_attention.v")),
]


@pytest.mark.parametrize("case, weight, place", FAULTS, ids=lambda each: each if isinstance(each, str) else "")
def test_a_wrong_weight_is_named_by_its_block_and_stage(meter_bundle_of, tmp_path, case, weight, place):
    spoilt = scaled(meter_bundle_of(case), weight, 0.5, tmp_path / "spoilt")
    report = eas_export.verify(spoilt, case.file)
    found = report.first_divergence
    assert report.exit_code == 1 and report.verdict == "differs"
    assert (found.step, found.graph) == (STEPS[1], "encode")  # the stored weights, not the fold and not the backend
    assert (found.part, found.layer, found.stage) == place
    if found.layer is not None:  # every block is shown: those before it are the same, and it is not
        shown = [(block.part, block.layer) for block in report.blocks]
        before = report.blocks[: shown.index((found.part, found.layer))]
        assert all(block.ok for block in before) and not report.blocks[len(before)].ok


def test_what_the_weights_are_not_is_not_seen_without_a_checkpoint(meter_bundle_of, tmp_path, command):
    """Only the graphs against the bundle's own weights."""
    spoilt = scaled(meter_bundle_of(VQA), "head.fc2.weight", 0.5, tmp_path / "spoilt")
    code, out, _ = command("verify", spoilt.path, "--json")
    said = json.loads(out)
    assert code == 0 and said["verdict"] == "self-consistent"
    assert [step["name"] for step in said["steps"]] == STEPS[2:]


def test_rows_of_a_file_are_compared_one_by_one_and_in_batches(meter_bundle_of, tmp_path, command):
    np.savez(tmp_path / "x.npz", **RETRIEVAL.arrays)
    verify = ("verify", meter_bundle_of(RETRIEVAL).path, "--ckpt", RETRIEVAL.file)
    code, out, err = command(*verify, "--inputs", tmp_path / "x.npz", "--json")
    assert code == 0, err
    cases = ["row 0", "row 1", "row 2", "1 to 2 in one batch"]
    assert all(list(step["cases"]) == cases for step in json.loads(out)["steps"])


def test_inputs_that_do_not_fit_are_wrong_use(meter_bundle_of, tmp_path, refused):
    np.savez(tmp_path / "x.npz", **NLVR2.arrays)
    path = meter_bundle_of(VQA).path
    said = refused("verify", path, "--ckpt", VQA.file, "--inputs", tmp_path / "x.npz")
    assert "unknown array 'pixel_values_1'" in said
    (tmp_path / "x.jsonl").write_text('{"prompt": "what?"}\n')
    assert "the bundle has no tokenizer" in refused("verify", path, "--inputs", tmp_path / "x.jsonl")


def test_steps_are_refused_where_nothing_is_decoded(meter_bundle_of, refused):
    said = refused("verify", meter_bundle_of(VQA).path, "--steps", 4)
    assert "answers in one pass and decodes nothing (--steps): leave --steps out" in said


def test_engines_that_are_not_there_are_not_run(meter_bundle_of, command):
    code, out, _ = command("verify", meter_bundle_of(VQA).path, "--require", "tensorrt-rtx", "--json")
    said = json.loads(out)
    assert code == 3 and "build with --backend tensorrt-rtx" in said["steps"][-1]["why_not"]


def test_the_page_names_the_parts(meter_bundle_of, tmp_path, command):
    page = tmp_path / "report.html"
    code, _, err = command("verify", meter_bundle_of(NLVR2).path, "--ckpt", NLVR2.file, "--html", page)
    text = page.read_text("utf-8")
    assert code == 0, err
    for part in ("text encoder", "image encoder", "text stream", "image stream", "shortest text", "cls_feats"):
        assert part in text, part
    assert "<svg" in text and "<script" not in text


def test_each_reading_of_the_last_sites_is_a_bundle_and_verified_as_such(meter_bundle_of):
    """The manifest says which; the checkpoint cannot."""
    published, paper = (meter_bundle_of(VQA, reading=reading) for reading in ("published", "paper"))
    assert published.manifest.key != paper.manifest.key
    assert published.store.entries.keys() != paper.store.entries.keys()
    assert "image_layers.5.cross_attention.up.weight" in paper.store.entries  # site 23
    report = eas_export.verify(paper, VQA.file)
    assert report.exit_code == 0 and report.reference == "the checkpoint it was built from"
    skipped = {(block.part, block.layer) for block in report.blocks if block.kind == "skipped"}
    assert ("image stream", 5) in skipped
    _, note, _ = paper.manifest.notes
    assert (
        note == "indices [23] were read as the image stream's cross-attentions; the published code reads them as self"
    )
    _, note, _ = published.manifest.notes
    assert note.startswith(
        "indices [23] were read as the image stream's self-attentions [17], as published; [23] are the same"
    )


def test_the_baseline_without_skipping_passes(meter_bundle_of):
    bundle = meter_bundle_of(VQA, skip="none")
    report = eas_export.verify(bundle, VQA.file, negative_controls=True)
    assert report.exit_code == 0, (report.first_divergence, report.controls)
    assert {block.kind for block in report.blocks} == {"kept"}
    assert not [name for name in bundle.store.entries if ".pool." in name or ".up." in name]
    reasons = {control.name: control.why_not for control in report.controls if control.why_not}
    assert reasons == WHY_NOT["METER"]


def test_another_checkpoint_is_wrong_use(meter_bundle_of, tmp_path, refused):
    path = meter_bundle_of(VQA).path
    assert "its text_length is 9, the bundle's 10" in refused("verify", path, "--ckpt", OLDER.file)
    assert "its task is nlvr2, the bundle's vqa" in refused("verify", path, "--ckpt", NLVR2.file)
    assert "this is a checkpoint of lavin, the bundle's is of meter" in refused(
        "verify", path, "--ckpt", GOLDEN / "lavin" / "first"
    )
