"""METER's naive transcription agrees with the published code, wherever the goldens look."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, max_error
from meter_cases import METER_CASES, MeterCase, opened, run_form
from reference.meter import MeterReference
from synthetic_meter import MeterShape, write_meter

ELSEWHERE = {"irtr_loss"}  # of training


def test_it_is_short_and_shares_no_code():
    text = (Path(__file__).parent / "reference" / "meter.py").read_text()
    assert len(text.splitlines()) <= 200
    assert "eas_export" not in text


def run_reference(case: MeterCase, reading: str = "published") -> dict[str, np.ndarray]:
    """What the transcription gives on a case's inputs, rows stacked."""
    reference = MeterReference(case.file, case.skip, case.text_heads, reading)
    rows = [
        reference.run(torch.tensor(ids), torch.tensor(mask), *map(torch.tensor, case.images(row)))
        for row, (ids, mask) in enumerate(zip(case.inputs["text_ids"], case.inputs["text_masks"]))
    ]
    return {name: torch.stack([row[name] for row in rows]).numpy() for name in rows[0]}


@pytest.mark.parametrize("name", METER_CASES)
def test_reference_equals_the_published_code(name):
    case = MeterCase(name)
    got = run_reference(case)
    assert set(case.golden) - ELSEWHERE == set(got)
    for each, value in got.items():
        assert max_error(value, case.golden[each]) < FP32, each


def test_the_two_readings_differ():
    case = MeterCase("vqa_skip10")
    assert max_error(run_reference(case, "paper")["logits"], case.golden["logits"]) > 100 * FP32


TINY = dict(
    dim=48, heads=4, layers=3, ffn=96, rank=6, skipped_rank=10, vocab=60, positions=20, text_layers=2, text_ffn=64
)
TINY |= dict(vit_width=64, vit_blocks=2, patch=8, image=24, text_length=9, answers=5)
RANDOM_MODELS = {
    "nothing skipped": (dict(), [], "published"),
    "everything skipped": (dict(), list(range(12)), "paper"),
    "everything the published code can": (dict(task="nlvr2", answers=2), list(range(12)), "published"),
    "image cross only": (dict(task="retrieval", answers=1), [9, 11], "paper"),
    "two cross-modal layers, wide adapters": (dict(layers=2, rank=40, skipped_rank=20, heads=2), [0, 3, 5, 6], "paper"),
    "one text layer, a tower of two heads": (
        dict(text_layers=1, vit_width=128, task="nlvr2", answers=2),
        [2, 4, 6],
        "paper",
    ),
}


@pytest.mark.parametrize("title", RANDOM_MODELS)
def test_network_equals_reference_on_random_models(tmp_path, title):
    sizes, skip, reading = RANDOM_MODELS[title]
    shape = MeterShape(**(TINY | sizes))
    file = write_meter(tmp_path, shape, seed=len(title))
    random = np.random.default_rng(len(title))
    lengths = random.integers(2, shape.text_length + 1, 3)
    masks = (np.arange(shape.text_length) < lengths[:, None]).astype(np.int64)
    ids = np.where(masks, random.integers(2, shape.vocab, masks.shape), 1)
    images = random.standard_normal((3, 2, 3, shape.image, shape.image)).astype(np.float32)
    inputs = {"text_ids": ids, "text_masks": masks, "pixel_values": images[:, 0]}
    if shape.task == "nlvr2":
        inputs["pixel_values_1"] = images[:, 1]
    if shape.task == "retrieval":
        inputs |= {"text_index": np.arange(3), "image_index": np.arange(3)}
    reference = MeterReference(file, skip, text_heads=4, reading=reading)
    looked_at = images if shape.task == "nlvr2" else images[:, :1]
    rows = [reference.run(*map(torch.tensor, (ids[i], masks[i], *looked_at[i]))) for i in range(3)]
    for form in ("folded", "unfolded"):
        got = run_form(form, *opened(file, skip, 4, reading), inputs)
        for name, value in got.items():
            assert max_error(value, torch.stack([row[name] for row in rows])) < FP32, (form, name)
