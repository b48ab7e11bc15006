"""The systems that EAS is compared with: their naive transcription agrees with the published code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32, GOLDEN, GoldenCase, max_error
from meter_cases import MeterCase
from reference import comparators
from reference.comparators import (
    LavinDasReference,
    LavinLoraReference,
    LavinRouterReference,
    MeterDasReference,
    MeterFullReference,
)
from reference.lavin import LavinReference

COMPARATORS = GOLDEN / "comparators"


def test_it_is_short_and_shares_no_code():
    text = Path(comparators.__file__).read_text()
    assert len(text.splitlines()) <= 200
    assert "eas_export" not in text


DECODERS = {
    "lavin/router": (LavinRouterReference, {}),
    "lavin/scaled": (LavinRouterReference, {}),
    "lavin-das/mid": (LavinDasReference, {}),
    "lavin-das/first_search": (LavinDasReference, {"skip": [0, 5]}),
    "lavin-lora/r4": (LavinLoraReference, {}),
    "lavin-lora/r2": (LavinLoraReference, {}),
}


def decoder(name: str) -> tuple[GoldenCase, LavinReference]:
    system, options = DECODERS[name]
    return GoldenCase(name, COMPARATORS / name), system(COMPARATORS / name, **options)


def run_row(reference: LavinReference, arrays: dict[str, np.ndarray], row: int = 0) -> dict[str, torch.Tensor]:
    image = arrays["images"][row] if arrays["indicators"][row] else None
    return reference.run(arrays["token_ids"][row].tolist(), image, arrays["forced_tokens"][:, row].tolist())


def relative(got: torch.Tensor, want: np.ndarray) -> float:
    """Of hidden states, which reach 32"""
    return max_error(got, want) / max(1.0, float(np.abs(want).max()))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_equal_the_published_code(name):
    case, reference = decoder(name)
    golden = case.golden
    for run in ("img1", "txt1"):
        arrays = case.run_inputs(run)
        got = run_row(reference, arrays)
        assert got["logits"].shape == (6, 80)
        assert max_error(got["logits"], golden[f"{run}/logits"][:, 0]) < FP32
        assert relative(got["hidden"], golden[f"{run}/hidden"][:, 0]) < FP32
        if f"{run}/router" in golden:
            assert max_error(got["router"], golden[f"{run}/router"][:, 0]) < 1e-5
        if got["image_embeds"] is not None:
            assert max_error(got["image_embeds"], golden[f"{run}/image_embeds"][0]) < FP32
    arrays = case.run_inputs("b3")
    for row in range(3):
        alone = f"b3/row{row}_alone"
        assert max_error(run_row(reference, arrays, row)["logits"], golden[f"{alone}/logits"][:, 0]) < FP32
        with torch.no_grad():
            seen = reference.clip_features(torch.tensor(arrays["images"][row]))
        assert relative(seen, golden[f"{alone}/clip_feats"][0]) < FP32


def test_the_router_knows_the_modality_alone():
    case, reference = decoder("lavin/router")
    first, _, third = (run_row(reference, case.run_inputs("b3"), row)["router"] for row in range(3))
    assert max_error(first, case.golden["img1/router"][:, 0]) < 1e-5
    assert max_error(first, third) < 1e-5
    assert max_error(first, case.golden["txt1/router"][:, 0]) > 1e-2


def test_loras_modality_token_has_no_effect():
    case, reference = decoder("lavin-lora/r4")
    reference.weights["adapter_modality_embedding.weight"] *= -3
    got = run_row(reference, case.run_inputs("img1"))["logits"]
    assert max_error(got, case.golden["img1/logits"][:, 0]) < FP32


def test_the_search_stage_needs_a_list():
    with pytest.raises(AssertionError, match="search stage"):
        LavinDasReference(COMPARATORS / "lavin-das" / "first_search")


ENCODERS = {
    "meter/vqa_full": MeterFullReference,
    "meter/nlvr2_full": MeterFullReference,
    "meter-das/vqa_train": MeterDasReference,
    "meter-das/vqa_none": MeterDasReference,
    "meter-das/irtr_search": MeterDasReference,
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_equal_the_published_code(name):
    case = MeterCase(f"comparators/{name}")
    reference = ENCODERS[name](case.file, case.text_heads)
    if isinstance(reference, MeterDasReference):
        assert reference.skip == set(case.skip)
    rows = [
        reference.run(torch.tensor(ids), torch.tensor(mask), *map(torch.tensor, case.images(row)))
        for row, (ids, mask) in enumerate(zip(case.inputs["text_ids"], case.inputs["text_masks"]))
    ]
    for each, want in case.golden.items():
        assert max_error(torch.stack([row[each] for row in rows]), want) < FP32, each
