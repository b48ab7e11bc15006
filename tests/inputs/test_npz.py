"""npz files in and out."""

import numpy as np
import pytest
from conftest import TINY, golden_case

from eas_export.core.errors import UserError
from eas_export.families import get_family
from eas_export.inputs.npz import make_inputs, read_inputs

CASE = golden_case("first")
CONFIG = CASE.checkpoint.config
GOOD = CASE.arrays("img1")


def inputs(**changes):
    arrays = {name: array for name, array in (GOOD | changes).items() if array is not None}
    return make_inputs(arrays, CONFIG, get_family("lavin"), "x.npz")


def test_images_take_the_first_zeros():
    prompts = inputs().prompts
    assert prompts.image_index.tolist() == [[-1, -1, -1, 0] + [-1] * 10]
    assert prompts.pixel_values.shape == (1, 3, 14, 14)


def test_a_row_without_an_image_is_a_text_prompt():
    prompts = inputs(pixel_values=None, image_row=None).prompts
    assert prompts.image_index.max() == -1 and prompts.pixel_values is None


def test_a_place_without_its_image_is_no_text():
    """Of LaVIN's six zeros, or the two of a small tower."""
    arrays = {"input_ids": np.array([[1, 7, 0, 5, 0, 9], [1, 7, 0, 0, 5, 9]])}
    with pytest.raises(
        UserError, match=r"2 zeros \(n_prompt\) in a row, where an image belongs \(x: input_ids, row 1\)"
    ):
        make_inputs(arrays, TINY.checkpoint.config, get_family("lavin"), "x")


def test_features_are_numbered_by_image_and_rows_by_image_row():
    two = {"input_ids": np.repeat(GOOD["input_ids"], 3, 0), "prompt_lengths": None, "forced_tokens": None}
    prompts = inputs(**two, pixel_values=np.repeat(GOOD["pixel_values"], 2, 0), image_row=np.array([2, 0])).prompts
    assert prompts.image_index.amax(1).tolist() == [1, -1, 0]
    assert prompts.prompt_lengths.tolist() == [14] * 3


def test_padding_is_not_read():
    ids = GOOD["input_ids"].copy()
    ids[0, 10:] = -1
    prompts = inputs(input_ids=ids, prompt_lengths=np.array([10])).prompts
    assert prompts.input_ids.tolist() == ids[:, :10].tolist()


ids = GOOD["input_ids"]
BAD = {
    "unknown array": (dict(input_idz=ids), "unknown array 'input_idz'"),
    "no ids": (dict(input_ids=None), "input_ids is missing or empty"),
    "empty": (dict(input_ids=ids[:, :0]), "input_ids is missing or empty"),
    "axes": (dict(input_ids=ids[0]), "expected 2 axes"),
    "floats": (dict(input_ids=ids.astype(float)), "expected integers"),
    "vocabulary": (dict(input_ids=np.where(ids == 1, 96, ids)), r"token id 96 is out of range 0\.\.95"),
    "negative": (dict(input_ids=np.where(ids == 1, -5, ids)), "token id -5"),
    "length 0": (dict(prompt_lengths=np.array([0])), r"prompt_lengths contains 0, out of range 1\.\.14"),
    "length past the end": (dict(prompt_lengths=np.array([15])), "contains 15"),
    "lengths of another batch": (dict(prompt_lengths=np.array([3, 3])), r"expected integers of shape \[1\]"),
    "no room for the image": (
        dict(input_ids=np.where(ids == 0, 5, ids)),
        r"zeros at \[\], expected 1 \(n_prompt\) in a row",
    ),
    "image size": (dict(pixel_values=np.zeros((1, 3, 28, 28))), r"expected floats \[N, 3, 14, 14\]"),
    "image without a row": (dict(image_row=None), "image_row is missing"),
    "row without an image": (dict(pixel_values=None), "image_row, but no pixel_values"),
    "image row": (dict(image_row=np.array([1])), r"image_row contains 1, out of range 0\.\.0"),
    "two images": (dict(pixel_values=np.zeros((2, 3, 14, 14)), image_row=np.array([0, 0])), "one image per prompt"),
    "NaN": (dict(pixel_values=np.full((1, 3, 14, 14), np.nan)), "NaN"),
    "forced": (dict(forced_tokens=np.array([[96]])), "forced_tokens contains 96"),
    "forced for another batch": (dict(forced_tokens=np.zeros((2, 2), int)), "expected integers"),
}


@pytest.mark.parametrize("title", BAD)
def test_bad_arrays_are_refused(title):
    changes, said = BAD[title]
    with pytest.raises(UserError, match=said):
        inputs(**changes)


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    family = get_family("lavin")
    np.savez(path, input_ids=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="not an npz of plain arrays"):
        read_inputs(path, CONFIG, family)
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(UserError, match="the file is empty"):
        read_inputs(path, CONFIG, family)
    for data in (b"text", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not an npz of plain arrays"):
            read_inputs(path, CONFIG, family)
    np.save(tmp_path / "x.npy", ids)
    with pytest.raises(UserError, match="not an npz of plain arrays"):
        read_inputs(tmp_path / "x.npy", CONFIG, family)
    with pytest.raises(UserError, match="no such file"):
        read_inputs(tmp_path / "absent.npz", CONFIG, family)


@pytest.mark.parametrize("shape", [(1, 1 << 25), (1 << 25, 1)])
def test_a_small_file_of_many_zeros_is_refused(tmp_path, shape):
    np.savez_compressed(tmp_path / "x.npz", input_ids=np.zeros(shape, np.int8))
    with pytest.raises(UserError, match=r"the arrays take 33554\d+ bytes, in a file of"):
        read_inputs(tmp_path / "x.npz", CONFIG, get_family("lavin"))
