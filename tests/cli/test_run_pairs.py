"""`run` on pairs of texts and images: a cross-encoder's arrays in, answers or scores out."""

import json

import numpy as np
import pytest
from conftest import FP32, max_error
from meter_cases import METER_CASES, MeterCase

VQA, RETRIEVAL = MeterCase("vqa_skip10"), MeterCase("irtr_skip10")


@pytest.fixture
def run(meter_bundle_of, tmp_path, command):
    """run(case, arrays, ...) -> (the written arrays, what --json says)"""

    def get(case: MeterCase, arrays: dict[str, np.ndarray], *more: object) -> tuple[dict[str, np.ndarray], dict]:
        np.savez(tmp_path / "x.npz", **arrays)
        files = ("--inputs", tmp_path / "x.npz", "--outputs", tmp_path / "y.npz")
        code, out, err = command("run", meter_bundle_of(case).path, *files, *more, "--json")
        assert code == 0, err
        return dict(np.load(tmp_path / "y.npz")), json.loads(out)

    return get


@pytest.mark.parametrize("name", METER_CASES)
def test_every_golden_case_gives_what_the_published_code_gave(name, run):
    """Retrieval: one image for three texts, more pairs than the bundle takes at once."""
    case = MeterCase(name)
    got, said = run(case, case.arrays)
    assert set(got) == {case.head, "cls_feats"}
    for each, value in got.items():
        assert value.shape == case.golden[each].shape and value.dtype == np.float32
        assert max_error(value, case.golden[each]) < FP32, each
    if case.head == "scores":
        assert np.array_equal(said["scores"], got["scores"].tolist())
    else:
        assert said["answers"] == case.golden["logits"].argmax(-1).tolist()
    assert said["backend"] == "onnxruntime" and said["outputs"].endswith("y.npz")


def test_rows_do_not_depend_on_the_batches_that_they_are_in(run):
    """Five pairs of a bundle that takes two."""
    order = [0, 1, 1, 0, 1]
    got, said = run(VQA, {name: value[order] for name, value in VQA.arrays.items()})
    for each, value in got.items():
        assert max_error(value, VQA.golden[each][order]) < FP32
    assert len(said["answers"]) == 5


def test_in_pytorch_too(run):
    got, _ = run(RETRIEVAL, RETRIEVAL.arrays, "--backend", "pytorch")
    assert max_error(got["scores"], RETRIEVAL.golden["scores"]) < FP32


def test_one_text_for_several_images(run):
    image, texts = RETRIEVAL.arrays["pixel_values"], RETRIEVAL.arrays["text_ids"]
    arrays = {"text_ids": texts[1:2], "text_masks": RETRIEVAL.arrays["text_masks"][1:2]}
    got, _ = run(RETRIEVAL, arrays | {"pixel_values": np.concatenate([-image, 0 * image, image])})
    assert got["scores"].shape == (3,)
    assert max_error(got["scores"][2], RETRIEVAL.golden["scores"][1]) < FP32
    assert len(set(got["scores"].round(3))) == 3


def test_the_tables(meter_bundle_of, tmp_path, command):
    """Scores best first, answers in their order; nothing is written unasked."""
    shown = {}
    for case in (VQA, RETRIEVAL):
        np.savez(tmp_path / "x.npz", **case.arrays)
        code, out, err = command("run", meter_bundle_of(case).path, "--inputs", tmp_path / "x.npz")
        assert code == 0, err
        shown[case.name] = [line.split() for line in out.splitlines() if line[:1].isdigit() and "pairs" not in line]
    scores, answers = RETRIEVAL.golden["scores"], VQA.golden["logits"].argmax(-1)
    assert shown[RETRIEVAL.name] == [[str(row), f"{scores[row]:.4f}"] for row in np.argsort(-scores)]
    assert [row[:2] for row in shown[VQA.name]] == [[str(row), str(answer)] for row, answer in enumerate(answers)]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_a_bundle_without_a_tokenizer_reads_arrays_alone(meter_bundle_of, tmp_path, refused):
    path = meter_bundle_of(VQA).path
    np.savez(tmp_path / "x.npz", **VQA.arrays)
    (tmp_path / "x.jsonl").write_text('{"prompt": "what?"}\n')
    for given in (("--prompt", "what?"), ("--inputs", tmp_path / "x.jsonl")):
        said = refused("run", path, *given)
        assert "the bundle has no tokenizer" in said and "--tokenizer DIR" in said and "--inputs X.npz" in said
    arrays = ("run", path, "--inputs", tmp_path / "x.npz")
    assert "a cross-encoder generates no tokens" in refused(*arrays, "--temperature", "0.5")
    assert "a cross-encoder generates no tokens (--max-new-tokens)" in refused(*arrays, "--max-new-tokens", "5")
    assert "the outputs would replace the inputs" in refused(*arrays, "--outputs", tmp_path / "x.npz")
    assert "these inputs give a .npz file" in refused(*arrays, "--outputs", tmp_path / "y.txt")


def test_arrays_of_another_task_are_refused_before_anything_is_written(meter_bundle_of, tmp_path, refused):
    np.savez(tmp_path / "x.npz", **MeterCase("nlvr2_skip10").arrays)
    run = ("run", meter_bundle_of(VQA).path, "--inputs", tmp_path / "x.npz", "--outputs", tmp_path / "y.npz")
    assert "unknown array 'pixel_values_1'" in refused(*run)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_probabilities_are_those_of_the_loss_and_top_is_taken(meter_bundle_of, tmp_path, command):
    """VQA was trained on each answer by itself."""
    shown = {}
    for case in (VQA, RETRIEVAL):
        np.savez(tmp_path / "x.npz", **case.arrays)
        code, out, _ = command("run", meter_bundle_of(case).path, "--inputs", tmp_path / "x.npz", "--top", 1)
        assert code == 0
        shown[case] = [line.split() for line in out.splitlines()[2:]]
    best = 1 / (1 + np.exp(-VQA.golden["logits"].max(-1)))
    assert [float(row[2]) for row in shown[VQA]] == pytest.approx(best.tolist(), abs=1e-3)
    assert [row[0] for row in shown[RETRIEVAL]] == [str(RETRIEVAL.golden["scores"].argmax())]
