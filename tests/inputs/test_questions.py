"""Questions as token ids and pixels, and the files they come from."""

import json

import numpy as np
import pytest
from conftest import DEMO
from PIL import Image

from eas_export.errors import UserError
from eas_export.families import get_family
from eas_export.images import read_image, squeezed
from eas_export.inputs.questions import encode_question, make_prompt, read_questions
from eas_export.question import Question
from eas_export.tokenizer import Tokenizer

CONFIG = DEMO.checkpoint.config
FAMILY = get_family("lavin")
TOKENIZER = Tokenizer(DEMO.folder / "weights" / "tokenizer.model", CONFIG.vocab_size)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_the_published_prompt_of_scienceqa():
    question = Question(question="Which is larger?", context="Look up.", options=("the sun", "the moon"))
    want = "Question: Which is larger?\nContext: Look up.\nOptions: (A) the sun (B) the moon\nResponse:"
    assert FAMILY.format(question) == want
    assert "\nContext: N/A\nOptions: \n" in FAMILY.format(Question(question="Why?"))


def test_the_image_prefix_is_encoded_on_its_own(picture):
    """As published: the first token, "Image: " and n_prompt zeros, or "Image: N/A"; then the text, encoded apart."""
    text = TOKENIZER.encode("What is it?")
    got = encode_question(Question(prompt="What is it?"), CONFIG, FAMILY, TOKENIZER)
    assert got == [1, *TOKENIZER.encode("Image: N/A"), *text]
    asked = Question(prompt="What is it?", image=str(picture))
    prefix = [1, *TOKENIZER.encode("Image: ")]
    assert encode_question(asked, CONFIG, FAMILY, TOKENIZER) == [*prefix, 0, 0, *text]
    prompts = make_prompt(asked, CONFIG, FAMILY, TOKENIZER, "here")
    index = prompts.image_index[0].tolist()
    assert index == [-1] * len(prefix) + [0, 1] + [-1] * len(text)
    assert prompts.pixel_values.shape == (1, 3, 28, 28)


def test_tokens_are_sentencepieces_own():
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(DEMO.folder / "weights" / "tokenizer.model"))
    text = "Question: a hen?\nResponse:"
    assert TOKENIZER.encode(text) == model.encode(text) and TOKENIZER.decode(model.encode(text) + [2]) == text
    assert (TOKENIZER.bos, TOKENIZER.eos) == (model.bos_id(), model.eos_id()) == (1, 2)


def test_pixels_are_the_whole_image_normalised(picture):
    """Bicubic, no crop, ImageNet's mean and deviation."""
    got = FAMILY.pixels(CONFIG, read_image(picture))
    resized = np.asarray(Image.open(picture).resize((28, 28), Image.BICUBIC), float) / 255
    want = (resized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.abs(got.numpy() - want.transpose(2, 0, 1)).max() < 1e-6
    one = squeezed(Image.new("RGB", (10, 99), (255, 0, 51)), 4, (0, 0, 0), (1, 1, 1))
    assert one.shape == (3, 4, 4) and np.allclose(one.amax((1, 2)), [1, 0, 0.2]) and one.dtype.is_floating_point


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_every_kind_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode in ("CMYK", "I;16") else "x.png")
    Image.new(mode, (5, 7)).save(path)
    assert read_image(path).mode == "RGB"


def test_images_that_cannot_be_read(tmp_path, picture, monkeypatch):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:900])
    for name in ("text.png", "half.png"):
        with pytest.raises(UserError, match="not an image that can be read"):
            read_image(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # between this and twice this Pillow only warns
    with pytest.raises(UserError, match="DecompressionBomb"):
        read_image(picture)


def write(path, *lines) -> None:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), "utf-8")


def test_a_file_of_questions(tmp_path, picture):
    path = tmp_path / "x.jsonl"
    write(path, {"prompt": "Größe?"}, {"question": "Q", "options": ["a", "b"], "image": "cat.png"})
    first, second = read_questions(path)
    assert first == Question(prompt="Größe?") and second.options == ("a", "b") and second.image == str(picture)


@pytest.mark.parametrize(
    "line, said",
    [
        ("{\n", "it is not a JSON object"),
        ("\n", "it is not a JSON object"),
        ("[1]\n", "dictionary"),
        ("[" * 100_000 + "\n", "it is not a JSON object"),
        ({"promt": "x"}, "unknown key 'promt'.*did you mean prompt"),
        ({}, "give either prompt or question"),
        ({"prompt": "x", "question": "y"}, "give either prompt or question"),
        ({"prompt": "x", "options": ["y"]}, "context and options go with question"),
        ({"prompt": 5}, "prompt: "),
        ({"question": "x", "options": ["y"] * 27}, "options: .*26"),
        ({"prompt": "x", "image": "absent.png"}, "image absent.png: there is no such file"),
        ({"prompt": "x", "image": "/etc/hostname"}, "inside the file's folder"),
        ({"prompt": "x", "image": "a/../../b.png"}, "inside the file's folder"),
        ({"prompt": "x", "image": ""}, "inside the file's folder"),
        ({"prompt": "x", "image": "a\0b"}, "inside the file's folder"),
        ({"prompt": "x" * (1 << 20)}, "longer than"),
        ('{"prompt": "\udcff"}\n', "it is not a JSON object"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line, said):
    path = tmp_path / "x.jsonl"
    text = line if isinstance(line, str) else json.dumps(line) + "\n"
    path.write_bytes(b'{"prompt": "fine"}\n' + text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=said) as error:
        read_questions(path)
    assert error.value.where == f"{path}, line 2" and len(str(error.value)) < 1000


def test_tokenizers_that_do_not_fit(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"no sentencepiece model")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        Tokenizer(path, 128)
    path.write_bytes((DEMO.folder / "weights" / "tokenizer.model").read_bytes())
    with pytest.raises(UserError, match="it has 128 tokens, the model 96"):
        Tokenizer(path, 96)
