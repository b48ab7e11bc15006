"""Arrays as a Hugging Face processor makes them: masks and padding on either side, and pixels that are not normalised."""

import numpy as np
import pytest
from conftest import FP32, TINY, golden_case, llava_golden_case, max_error
from meter_cases import MeterCase
from PIL import Image

from eas_export.core.errors import UserError
from eas_export.families import detect, load_checkpoint
from eas_export.families.contract import Sources
from eas_export.families.processing.question import Question
from eas_export.families.processing.tokenizer import Tokenizer
from eas_export.inputs.npz import make_inputs
from eas_export.inputs.pairs import make_pairs
from eas_export.inputs.questions import make_prompt

LLAVA, LAVIN = llava_golden_case("a"), golden_case("all")


def masked(arrays: dict[str, np.ndarray], side: str, pad: int = 0) -> dict[str, np.ndarray]:
    """The arrays with a mask in place of prompt_lengths, and each row's padding on that side."""
    ids, lengths = np.pad(arrays["input_ids"], ((0, 0), (0, 2))), arrays["prompt_lengths"]
    mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask, ids, pad)
    if side == "left":
        ids, mask = (np.stack([np.roll(r, -n) for r, n in zip(a, lengths)]) for a in (ids, mask))
    return {k: v for k, v in arrays.items() if k != "prompt_lengths"} | {"input_ids": ids, "attention_mask": mask}


def read(case, arrays):
    return make_inputs(arrays, case.checkpoint.config, detect(case.folder), "x.npz").prompts


def same(one, other) -> bool:
    parts = ("input_ids", "prompt_lengths", "image_index")
    return all(getattr(one, part).equal(getattr(other, part)) for part in parts)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", [LLAVA, LAVIN], ids=lambda case: case.name)
def test_padded_rows_give_what_the_published_code_gave(case, side, bundle_of, tmp_path, command):
    np.savez(tmp_path / "x.npz", **masked(case.arrays("b3"), side))
    files = ("--inputs", tmp_path / "x.npz", "--outputs", tmp_path / "y.npz")
    code, _, err = command("run", bundle_of(case, fold="lowrank").path, *files)
    assert code == 0, err
    assert max_error(np.load(tmp_path / "y.npz")["logits"], case.golden["b3/v3/logits"]) < FP32


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
@pytest.mark.parametrize("pad", [0, 2, 7, -1])
def test_masked_padding_is_any_id(pad, dtype):
    arrays = masked(LLAVA.arrays("b3"), "left", pad)
    arrays["attention_mask"] = arrays["attention_mask"].astype(dtype)
    assert same(read(LLAVA, arrays), read(LLAVA, LLAVA.arrays("b3")))


def test_a_mask_and_lengths_that_agree_are_both_taken():
    arrays = LLAVA.arrays("b3")
    both = masked(arrays, "right") | {"prompt_lengths": arrays["prompt_lengths"]}
    assert same(read(LLAVA, both), read(LLAVA, arrays))


def refused(said: str, case, arrays) -> None:
    with pytest.raises(UserError, match=said):
        read(case, arrays)


def test_masks_that_say_nothing_clear_are_refused():
    left, right = masked(LLAVA.arrays("b3"), "left"), masked(LLAVA.arrays("b3"), "right")
    lengths = LLAVA.arrays("b3")["prompt_lengths"]
    contradiction = "attention_mask and prompt_lengths contradict .*padding on the right"
    refused(contradiction, LLAVA, left | {"prompt_lengths": lengths})
    refused(contradiction, LLAVA, right | {"prompt_lengths": lengths - [1, 0, 0]})
    mask = right["attention_mask"]
    hole, empty = mask.copy(), mask.copy()
    hole[1, 5], empty[2] = 0, 0
    refused(
        "row 1 of attention_mask is not one run of ones .*padded on one side", LLAVA, right | {"attention_mask": hole}
    )
    refused("row 2 of attention_mask is not one run of ones", LLAVA, right | {"attention_mask": empty})
    refused("attention_mask contains 2", LLAVA, right | {"attention_mask": 2 * mask})
    refused("attention_mask is float32", LLAVA, right | {"attention_mask": mask.astype(np.float32)})
    refused(r"attention_mask is int64 \[3, 15\]", LLAVA, right | {"attention_mask": mask[:, 1:]})


@pytest.mark.parametrize("side, said", [("left", "row 0 begins"), ("right", "row 0 ends")])
@pytest.mark.parametrize("pad", [0, 2, 7, -1])
def test_padding_that_nothing_tells_is_refused(pad, side, said):
    """<unk>, </s>, and any id that a row of several has twice at its end."""
    arrays = masked(LLAVA.arrays("b3"), side, pad)
    del arrays["attention_mask"]
    refused(
        f"{said} (twice )?with the token id {pad}, as padding does .*input_ids.*pass attention_mask .*prompt_lengths",
        LLAVA,
        arrays,
    )


@pytest.mark.parametrize("case", [LLAVA, LAVIN], ids=lambda case: case.name)
def test_a_row_that_ends_twice_in_an_id_says_so(case):
    arrays = {"input_ids": np.array([[1, 7, 9], [1, 5, 5]])}
    refused(r"row 1 ends twice with the token id 5.*without padding prompt_lengths is 3 each", case, arrays)
    assert read(case, arrays | {"prompt_lengths": np.array([3, 3])}).input_ids.tolist() == arrays["input_ids"].tolist()


@pytest.mark.parametrize("case", [LLAVA, LAVIN], ids=lambda case: case.name)
def test_one_row_that_ends_in_unk_or_eos_is_refused_unless_its_length_says_so(case):
    for pad in (0, 2):
        arrays = {"input_ids": np.array([[1, 7, 9, pad]])}
        refused(f"row 0 ends with the token id {pad}", case, arrays)
        assert read(case, arrays | {"prompt_lengths": np.array([4])}).input_ids.tolist() == [[1, 7, 9, pad]]
    assert read(case, {"input_ids": np.array([[1, 7, 9, 9]])}).prompt_lengths.tolist() == [4]


def test_two_images_at_the_end_are_no_padding():
    pixels = np.zeros((3, 3, 14, 14), np.float32)
    arrays = {"input_ids": np.array([[1, 7, 5], [1, -200, -200], [1, 5, -200]]), "pixel_values": pixels}
    got = read(LLAVA, arrays)
    assert got.prompt_lengths.tolist() == [3, 9, 6]
    assert same(got, read(LLAVA, arrays | {"image_row": np.array([1, 1, 2])}))
    refused(
        "the prompts have 3 image placeholders, but pixel_values 2 images", LLAVA, arrays | {"pixel_values": pixels[:2]}
    )


def test_a_question_may_end_in_a_character_that_the_tokenizer_does_not_know():
    """Its length is known."""
    tokenizer = Tokenizer(TINY.checkpoint.tokenizer, 1 << 20)
    question = Question(prompt="What is \u6f22")
    prompts = make_prompt(question, TINY.checkpoint.config, detect(TINY.folder), tokenizer, "here")
    assert prompts.input_ids[0, -1] == 0 and prompts.prompt_lengths.tolist() == [prompts.input_ids.shape[1]]


def test_ids_of_another_model_are_refused_with_a_hint():
    said = r"token id 96 is out of range .*own tokenizer \(an image is one -200\); where ids are padding, pass"
    refused(said, LLAVA, {"input_ids": np.array([[1, 96, 96, 5]])})


def test_pixels_as_transformers_makes_them_are_taken_and_others_refused():
    """Black and white at once: the lowest and the highest value that an image can have."""
    from transformers import CLIPImageProcessorPil

    mean, std = LLAVA.checkpoint.config.vision.image.mean, LLAVA.checkpoint.config.vision.image.std
    picture = Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((9, 9))).astype(np.uint8)).convert("RGB")
    sizes = dict(size={"shortest_edge": 14}, crop_size=14, image_mean=mean, image_std=std, return_tensors="np")
    made = lambda **more: CLIPImageProcessorPil()(picture, **sizes, **more)["pixel_values"]
    arrays = LLAVA.arrays("img1")
    for dtype in (np.float32, np.float16):
        assert read(LLAVA, arrays | {"pixel_values": made().astype(dtype)}).pixel_values.shape == (1, 3, 14, 14)
    raw = made(do_rescale=False, do_normalize=False).astype(np.float32)
    said = r"pixel_values has values from 0 to 255, but those of images lie from -1\.79 to 2\.15 .*normalise.*/ 255.*0\.48145466.*0\.26862954"
    refused(said, LLAVA, arrays | {"pixel_values": raw})
    refused("pixel_values has values from", LLAVA, arrays | {"pixel_values": made(do_rescale=False)})
    config = LLAVA.checkpoint.config.vision.image
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (config.mean, config.std))
    ends = ((np.array([0.0, 1.0], np.float32)[:, None, None, None] - mean) / std).repeat(14, -1).repeat(14, -2)
    twice = (ends[:1] - mean) / std  # black, normalised twice
    refused("pixel_values has values from -8", LLAVA, arrays | {"pixel_values": twice})
    refused("pixel_values has values from -255 to", LLAVA, arrays | {"pixel_values": -raw})
    refused(
        r"to 255, but those of images lie from -2\.12 to 2\.64", LAVIN, LAVIN.arrays("img1") | {"pixel_values": raw}
    )


def test_meters_pixels_and_masks():
    case = MeterCase("irtr_skip10")
    config = load_checkpoint(Sources(case.file, text_heads=case.text_heads)).config
    raw = np.arange(3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32) % 256
    with pytest.raises(
        UserError, match=r"pixel_values has values from 0 to 255, but those of images lie from -1\.79 to 2\.15"
    ):
        make_pairs(case.arrays | {"pixel_values": raw}, config, "x.npz")
    got = make_pairs(case.arrays | {"text_masks": case.arrays["text_masks"].astype(bool)}, config, "x.npz")
    assert np.array_equal(got.text_masks, case.arrays["text_masks"])
    left = {name: np.roll(case.arrays[name], 3, 1) for name in ("text_ids", "text_masks")}
    for masks in (left["text_masks"], None):
        arrays = {k: v for k, v in (case.arrays | left | {"text_masks": masks}).items() if v is not None}
        with pytest.raises(UserError, match=r"text 1 begins with padding .*pad texts on the right"):
            make_pairs(arrays, config, "x.npz")
