"""METER's naive transcription agrees with the published code, wherever the goldens look."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, max_error
from meter_cases import METER_CASES, MeterCase
from reference.meter import MeterReference

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
