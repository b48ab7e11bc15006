"""The arrays that a cross-encoder is given: what is filled in, what goes with what, and what is refused."""

from functools import cache

import numpy as np
import pytest
import torch
from meter_cases import MeterCase

from eas_export.core.errors import UserError
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.inputs.pairs import make_pairs, read_pairs, write_answers

VQA, NLVR2, RETRIEVAL = (MeterCase(name) for name in ("vqa_skip10", "nlvr2_skip10", "irtr_skip10"))


@cache
def config_of(case: MeterCase):
    return load_checkpoint(Sources(case.file, text_heads=case.text_heads)).config


def pairs(case: MeterCase = VQA, **changes):
    arrays = {name: array for name, array in (case.arrays | changes).items() if array is not None}
    return make_pairs(arrays, config_of(case), "x.npz")


def same(one, other) -> bool:
    parts = ("text_ids", "text_masks", "text_index", "image_index")
    images = zip(one.pixels, other.pixels, strict=True)
    return all(getattr(one, part).equal(getattr(other, part)) for part in parts) and all(a.equal(b) for a, b in images)


def test_each_text_has_its_image():
    got = pairs()
    assert got.text_ids.dtype == got.text_masks.dtype == torch.int64 and got.pixels[0].dtype == torch.float32
    assert np.array_equal(got.text_ids, VQA.arrays["text_ids"]) and np.array_equal(got.pixels[0], VQA.inputs["pixels"])
    assert got.text_index.tolist() == got.image_index.tolist() == [0, 1] and len(got) == 2
    assert len(pairs(NLVR2).pixels) == 2


def test_short_texts_are_filled_up_to_what_the_model_was_trained_with():
    length = config_of(RETRIEVAL).text_length
    short, masks = RETRIEVAL.arrays["text_ids"][1:, :9], RETRIEVAL.arrays["text_masks"][1:, :9]
    assert masks.shape[1] < length and RETRIEVAL.arrays["text_masks"][1:, 9:].max() == 0
    got = pairs(RETRIEVAL, text_ids=short, text_masks=masks)
    assert same(got, pairs(RETRIEVAL, text_ids=RETRIEVAL.arrays["text_ids"][1:], text_masks=None))
    assert got.text_ids.shape == (2, length) and (got.text_ids[:, 9:] == 1).all() and not got.text_masks[:, 9:].any()


def test_a_mask_is_made_of_the_padding():
    got = pairs(text_ids=np.array([[0, 7, 2, 1, 1], [5, 1, 1, 1, 1]]), text_masks=None)
    assert got.text_masks[:, :5].tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]


def test_padding_inside_a_text_is_a_token_where_the_mask_says_so():
    """As RoBERTa's tokenizer makes of "a <pad> b"."""
    masks = np.array([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], np.uint8)
    got = pairs(text_ids=np.array([[0, 7, 1, 2, 1], [5, 1, 1, 1, 1]]), text_masks=masks)
    assert got.text_masks[:, :5].tolist() == masks.tolist() and got.text_ids[0, :5].tolist() == [0, 7, 1, 2, 1]


def test_one_image_goes_with_every_text_and_one_text_with_every_image():
    got = pairs(RETRIEVAL)
    assert (got.text_index.tolist(), got.image_index.tolist()) == ([0, 1, 2], [0, 0, 0]) and len(got.pixels[0]) == 1
    text = {name: RETRIEVAL.arrays[name][:1] for name in ("text_ids", "text_masks")}
    got = pairs(RETRIEVAL, **text, pixel_values=np.repeat(RETRIEVAL.arrays["pixel_values"], 4, 0))
    assert (got.text_index.tolist(), got.image_index.tolist()) == ([0, 0, 0, 0], [0, 1, 2, 3])
    assert len(got.text_ids) == 1
    got = pairs(RETRIEVAL, pixel_values=np.repeat(RETRIEVAL.arrays["pixel_values"], 3, 0))
    assert (got.text_index.tolist(), got.image_index.tolist()) == ([0, 1, 2], [0, 1, 2])


ids, masks, pixels = (VQA.arrays[name] for name in ("text_ids", "text_masks", "pixel_values"))
BAD = {  # title -> case, what is changed, what is said
    "no texts": (VQA, dict(text_ids=None), "text_ids is missing or empty"),
    "texts of no tokens": (VQA, dict(text_ids=ids[:, :0], text_masks=None), "text_ids is missing or empty"),
    "no rows": (VQA, dict(text_ids=ids[:0], text_masks=None), "text_ids is missing or empty"),
    "no images": (VQA, dict(pixel_values=None), "pixel_values is missing or empty"),
    "images of no rows": (VQA, dict(pixel_values=pixels[:0]), "pixel_values is missing or empty"),
    "no second image": (NLVR2, dict(pixel_values_1=None), "pixel_values_1 is missing or empty"),
    "a second image": (VQA, dict(pixel_values_1=pixels), "unknown array 'pixel_values_1'"),
    "another name": (VQA, dict(input_ids=ids), "unknown array 'input_ids'.*text_ids, text_masks, pixel_values"),
    "axes of texts": (VQA, dict(text_ids=ids[0]), r"text_ids has shape \[10\], expected 2 axes"),
    "axes of masks": (VQA, dict(text_masks=masks[:, None]), "text_masks has shape .* expected 2 axes"),
    "axes of images": (VQA, dict(pixel_values=pixels[0]), "pixel_values has shape .* expected 4 axes"),
    "a long text": (
        VQA,
        dict(text_ids=np.repeat(ids, 2, 1), text_masks=None),
        "20 tokens, but the model was trained with 10.*text_ids.*truncate them",
    ),
    "floats for ids": (VQA, dict(text_ids=ids.astype(float)), "text_ids is float64"),
    "an id past the vocabulary": (
        VQA,
        dict(text_ids=np.where(ids == ids[0, 1], 120, ids)),
        r"120, out of range 0\.\.119",
    ),
    "a negative id": (VQA, dict(text_ids=np.where(ids == ids[0, 1], -1, ids)), "text_ids contains -1"),
    "masks of another length": (VQA, dict(text_masks=masks[:, :-1]), r"expected integers of shape \[2, 10\]"),
    "masks of other rows": (VQA, dict(text_masks=masks[:1]), r"expected integers of shape \[2, 10\]"),
    "a mask of 2": (VQA, dict(text_masks=2 * masks), r"text_masks contains 2, out of range 0\.\.1"),
    "floats for a mask": (VQA, dict(text_masks=masks.astype(np.float32)), "text_masks is float32"),
    "an empty mask": (VQA, dict(text_masks=masks * [[1], [0]]), "text 1 has no tokens"),
    "a text of padding": (VQA, dict(text_ids=ids * [[0], [1]] + [[1], [0]], text_masks=None), "text 0 has no tokens"),
    "a hole in a mask": (
        VQA,
        dict(text_masks=masks * ([1] * 4 + [0] + [1] * 5)),
        r"text 0 has zeros between the ones of its mask \(x.npz: text_masks\): pad texts on the right, with the id 1",
    ),
    "padding between tokens": (
        VQA,
        dict(text_ids=np.where(np.arange(10) == 4, 1, ids), text_masks=None),
        r"text 0 has padding \(id 1\) between its tokens \(x.npz: text_ids\)",
    ),
    "tokens that the mask calls padding": (
        VQA,
        dict(text_masks=masks * ([1] * 8 + [0] * 2)),
        "text 0 has other ids than 1 where text_masks is 0",
    ),
    "another model's padding, masked": (
        VQA,
        dict(text_ids=ids * [[1] * 10, [1] * 7 + [0] * 3], text_masks=masks * [[1] * 10, [1] * 7 + [0] * 3]),
        "text 1 has other ids than 1 where text_masks is 0",
    ),
    "another model's padding": (
        VQA,
        dict(text_ids=ids * [[1] * 10, [1] * 7 + [0] * 3], text_masks=None),
        r"text 1 ends with the id 0 \(<s>\), as texts padded for other models do",
    ),
    "padding that the mask counts": (
        VQA,
        dict(text_ids=np.where(np.arange(10) < 8, ids, 1), text_masks=masks),
        r"text 0 ends with padding \(id 1\) where text_masks is 1.*write 0 there",
    ),
    "image size": (VQA, dict(pixel_values=pixels[:, :, :-1]), r"expected floats \[N, 3, 32, 32\]"),
    "grey images": (VQA, dict(pixel_values=pixels[:, :1]), r"expected floats \[N, 3, 32, 32\]"),
    "bytes for pixels": (VQA, dict(pixel_values=pixels.astype(np.uint8)), "pixel_values is uint8"),
    "NaN": (VQA, dict(pixel_values=np.full_like(pixels, np.nan)), "NaN"),
    "infinity in the second image": (
        NLVR2,
        dict(pixel_values_1=np.full_like(NLVR2.arrays["pixel_values_1"], np.inf)),
        "pixel_values_1 contains NaN or infinity",
    ),
    "one image for two questions": (
        VQA,
        dict(pixel_values=pixels[:1]),
        "text_ids has 2, pixel_values has 1.*as many texts as",
    ),
    "one question for two images": (VQA, dict(text_ids=ids[:1], text_masks=None), "text_ids has 1, pixel_values has 2"),
    "one second image": (
        NLVR2,
        dict(pixel_values_1=NLVR2.arrays["pixel_values_1"][:1]),
        "pixel_values has 2, pixel_values_1 has 1",
    ),
    "two images for three texts": (
        RETRIEVAL,
        dict(pixel_values=np.repeat(RETRIEVAL.arrays["pixel_values"], 2, 0)),
        "text_ids has 3, pixel_values has 2.*or one of either",
    ),
}


@pytest.mark.parametrize("title", BAD)
def test_bad_arrays_are_refused(title):
    case, changes, said = BAD[title]
    with pytest.raises(UserError, match=said) as refusal:
        pairs(case, **changes)
    assert refusal.value.where.startswith("x.npz")


def test_files_in_and_out(tmp_path):
    np.savez(tmp_path / "x.npz", **NLVR2.arrays)
    assert same(read_pairs(tmp_path / "x.npz", config_of(NLVR2)), pairs(NLVR2))
    (tmp_path / "y.npz").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not an npz of plain arrays"):
        read_pairs(tmp_path / "y.npz", config_of(NLVR2))
    write_answers(tmp_path / "z.npz", {"scores": torch.tensor([1.0, 2.0])})
    assert np.load(tmp_path / "z.npz")["scores"].tolist() == [1, 2]
