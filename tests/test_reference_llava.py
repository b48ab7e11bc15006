"""A second, naive transcription of LLaVA-EAS agrees with the published code."""

from pathlib import Path

import numpy as np
import pytest
from conftest import FP32, GOLDEN, max_error
from reference.llava import IMAGE, LlavaReference

CASES = ("a", "half")


def test_it_is_short_and_shares_no_code():
    text = (Path(__file__).parent / "reference" / "llava.py").read_text()
    assert len(text.splitlines()) <= 200
    assert "eas_export" not in text


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("run", ["img1", "txt1", "b3"])
def test_reference_equals_the_published_code(case, run):
    inputs, golden = (np.load(GOLDEN / "llava" / case / name) for name in ("inputs.npz", "golden.npz"))
    reference = LlavaReference(GOLDEN / "llava" / case)
    for row, (ids, mask) in enumerate(zip(inputs[f"{run}/input_ids"], inputs[f"{run}/attention_mask"])):
        ids = ids[mask.astype(bool)].tolist()
        images = [inputs[f"{run}/images"][row]] if IMAGE in ids else []
        got = reference.run(ids, images, inputs[f"{run}/forced_tokens"][:, row])
        assert max_error(got["logits"], golden[f"{run}/v3/logits"][:, row]) < FP32
        assert max_error(got["hidden"], golden[f"{run}/v3/hidden"][:, row]) < FP32
        assert max_error(got["router"], golden[f"{run}/v3/router"][:, row]) < 1e-5
        skipped = sorted(reference.skip)
        assert max_error(got["pooled"][skipped], golden[f"{run}/v3/pooled"][skipped, row]) < 1e-5
        if images:
            assert max_error(got["image_embeds"][0], golden[f"{run}/image_embeds"][row]) < FP32
