"""Questions as token ids and pixels, and the files they come from."""

import io
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from PIL import Image, ImageOps
from sentencepiece import SentencePieceTrainer

from eas_export.core.configs.vit import ImageConfig
from eas_export.core.errors import UserError
from eas_export.families import get_family
from eas_export.families.processing.image_processor import is_rotated, read_image, to_pixels
from eas_export.families.processing.question import Question, as_questions
from eas_export.families.processing.tokenizer import TextStream, Tokenizer
from eas_export.inputs.questions import STDIN, encode_question, holds_questions, make_prompt, read_questions

CONFIG = TINY.checkpoint.config
FAMILY = get_family("lavin")
CHOICE = {"question": "Which is larger?", "options": ["the sun", "the moon"]}
TOKENIZER = Tokenizer((TINY.folder / "weights" / "tokenizer.model",), CONFIG.vocab_size)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_the_published_prompt_of_scienceqa():
    question = Question(question="Which is larger?", context="Look up.", options=("the sun", "the moon"))
    want = "Question: Which is larger?\nContext: Look up.\nOptions: (A) the sun (B) the moon\nResponse:"
    assert FAMILY.prompts.format(question) == want
    assert "\nContext: N/A\nOptions: \n" in FAMILY.prompts.format(Question(question="Why?"))


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

    model = sentencepiece.SentencePieceProcessor(model_file=str(TINY.folder / "weights" / "tokenizer.model"))
    text = "Question: a hen?\nResponse:"
    assert TOKENIZER.encode(text) == model.encode(text) and TOKENIZER.decode(model.encode(text) + [2]) == text
    assert (TOKENIZER.bos, TOKENIZER.eos) == (model.bos_id(), model.eos_id()) == (1, 2)


def test_pixels_are_the_whole_image_normalised(picture):
    """Bicubic, no crop, ImageNet's mean and deviation."""
    got = FAMILY.prompts.pixels(CONFIG, read_image(picture))
    resized = np.asarray(Image.open(picture).resize((28, 28), Image.BICUBIC), float) / 255
    want = (resized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.abs(got.numpy() - want.transpose(2, 0, 1)).max() < 1e-6
    one = to_pixels(
        Image.new("RGB", (10, 99), (255, 0, 51)), 4, ImageConfig(square="squash", mean=(0, 0, 0), std=(1, 1, 1))
    )
    assert one.shape == (3, 4, 4) and np.allclose(one.amax((1, 2)), [1, 0, 0.2]) and one.dtype.is_floating_point


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_every_kind_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (5, 7)).save(path)
    assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_are_refused_not_clipped(tmp_path, mode):
    path = tmp_path / "x.tif"
    Image.new(mode, (5, 7)).save(path)
    with pytest.raises(UserError, match="more than 8 bits"):
        read_image(path)


def test_no_image_starts_a_program(tmp_path, monkeypatch):
    """Pillow hands EPS files, whatever their name, to Ghostscript."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    (tmp_path / "cat.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="not an image of a known format"):
        read_image(tmp_path / "cat.png")
    assert not (tmp_path / "ran").exists()


def test_images_that_cannot_be_read(tmp_path, picture, monkeypatch):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:900])
    for name, said in (
        ("text.png", "not an image of a known format .*: convert it to one of PNG, JPEG"),
        ("half.png", r"it is damaged \(.*[Tt]runcated.*\) .*: copy the file again"),
    ):
        with pytest.raises(UserError, match=said):
            read_image(tmp_path / name)
    for limit in (1000, 2000):  # between this and twice this Pillow only warns
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=f"too large: more than {limit:,} pixels .*: scale it down, to 2000 pixels"):
            read_image(picture)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert not is_rotated(picture) and not warned


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotation_beside_the_pixels_is_applied_where_asked_for(tmp_path, picture, orientation):
    """As Pillow applies it; LLaVA, LaVIN and transformers do not."""
    exif, path, stored = Image.Exif(), tmp_path / "x.png", Image.open(picture)
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    assert is_rotated(path) == (orientation > 1) and not is_rotated(picture)
    assert read_image(path).tobytes() == stored.convert("RGB").tobytes()
    turned = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert read_image(path, exif_rotate=True).tobytes() == turned.tobytes()
    assert (turned.tobytes() != stored.convert("RGB").tobytes()) == (orientation > 1)


def write(path, *lines) -> None:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), "utf-8")


def test_a_file_of_questions(tmp_path, picture):
    path = tmp_path / "x.jsonl"
    write(path, {"prompt": "Größe?", "options": None}, {"question": "Q", "options": ["a", "b"], "image": "cat.png"})
    path.write_bytes(
        b"\xef\xbb\xbf\r\n" + path.read_bytes().replace(b"\n", b"\r\n") + b"\n  \n"
    )  # as Windows writes it
    first, second = read_questions(path)
    assert first.prompt == "Größe?" and second.options == ("a", "b") and second.image == (str(picture),)


def test_a_question_file_of_llava(tmp_path, picture):
    """As its evaluations have them: `text` is the question, which has an id of either kind; images lie in a folder of their own."""
    (tmp_path / "eval").mkdir()
    path = tmp_path / "eval" / "x.jsonl"
    published = {"question_id": 7, "image": "cat.png", "text": "What is shown?", "category": "default"}
    write(path, published, {"question_id": "7", "image": str(picture), "text": "Why?"})
    read = read_questions(path, picture.parent)
    assert [(each.question, each.question_id, each.image) for each in read] == [
        ("What is shown?", 7, (str(picture),)),
        ("Why?", "7", (str(picture),)),
    ]
    said = get_family("llava").prompts.format(read[0])
    assert said.endswith(" USER: <image>\nWhat is shown? ASSISTANT:")  # llava_v1's, as model_vqa.py makes it
    write(path, {"text": "Why?", "image": str(picture)})
    with pytest.raises(UserError, match=f"pass --image-root {picture.parent}$"):
        read_questions(path)
    write(path, {"text": "Why?", "image": "../cat.png"})
    with pytest.raises(UserError, match="without \\.\\."):
        read_questions(path, picture.parent)


def test_questions_come_from_standard_input(picture, monkeypatch):
    line = b'{"prompt": "x", "image": "cat.png"}\n'
    for root, folder in ((None, picture.parent), (picture.parent, "/")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
        monkeypatch.chdir(folder)
        assert holds_questions(STDIN) and Path(read_questions(STDIN, root)[0].image[0]).samefile(picture)
    for sent, said in ((b'{"promt": 1}', r"\(standard input, line 1\)"), (b"", r"no questions \(standard input\)")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))
        with pytest.raises(UserError, match=said):
            read_questions(STDIN)


def test_labels(tmp_path, picture):
    """An option's letter, text or index is its index; what people answered is texts."""
    path, options = tmp_path / "x.jsonl", ["the sun", "the moon"]
    labels = ["B", " the moon ", 1, None]
    write(path, *({"question": "Q", "options": options, "answer": label, "image": "cat.png"} for label in labels))
    assert [question.answer for question in read_questions(path)] == [1, 1, 1, None]
    write(path, {"question": "Q", "answer": "two"}, {"prompt": "P", "answer": ["two", "2"], "options": None})
    assert [question.answer for question in read_questions(path)] == [("two",), ("two", "2")]
    letters = Question(question="Q", options=("B", "A"), answer=0)
    assert Question(**letters.model_dump()) == letters  # an index stays an index
    assert encode_question(letters, CONFIG, FAMILY, TOKENIZER) == encode_question(
        letters.model_copy(update={"answer": None}), CONFIG, FAMILY, TOKENIZER
    )


def test_a_file_without_questions(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="no question"):
        read_questions(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "line, said",
    [
        ("{\n", "the line is not JSON"),
        ("[1]\n", "a JSON list, not an object"),
        ("[" * 100_000 + "\n", "the line is not JSON"),
        ({"promt": "x"}, "unknown key 'promt'.*did you mean prompt"),
        ({}, "needs either 'prompt', 'question' or 'text' .*: give one of them"),
        ({"prompt": "x", "question": "y"}, "needs either 'prompt', 'question' or 'text'"),
        ({"text": "x", "question": "y"}, "needs either 'prompt', 'question' or 'text'"),
        ({"text": 5}, "text is 5: "),
        ({"text": "x", "questionid": 1}, "unknown key 'questionid'.*did you mean question_id"),
        ({"text": "x", "question_id": 1.5}, "question_id is 1.5: an id is a text or a whole number"),
        ('{"text": "x", "question_id": "\\ud800"}\n', "question_id is .*: not valid Unicode"),
        ({"prompt": "x", "options": ["y"]}, "context and options go with question.*: give question in place of prompt"),
        ({"prompt": 5}, "prompt is 5: "),
        ({"question": "x", "options": ["y"] * 27}, "options is .*26"),
        ({**CHOICE, "answer": "C"}, "answer is 'C': expected a letter from A to B or the text of an option"),
        ({**CHOICE, "answer": "the son"}, "answer is 'the son': expected a letter"),
        ({**CHOICE, "answer": 2}, "answer is 2: expected an option's index from 0 to 1"),
        ({**CHOICE, "answer": -1}, "answer is -1: expected an option's index"),
        ({**CHOICE, "answer": True}, "answer is True: with options, an answer is"),
        ({**CHOICE, "answer": ["the sun"]}, "answer is .*: with options, an answer is"),
        ({**CHOICE, "answer": " "}, "answer is ' ': an answer must not be empty"),
        ({**CHOICE, "options": ["B", "A"], "answer": "A"}, "answer is 'A': the answer names 2 options: give the index"),
        ({**CHOICE, "options": ["so", "so"], "answer": "so"}, "answer is 'so': the answer names 2 options"),
        ({**CHOICE, "options": 5, "answer": "A"}, "options is 5"),
        ({"prompt": "x", "answer": 0}, "answer is 0: without options, an answer is a text, or a list of up to 10"),
        ({"prompt": "x", "answer": ["two", 2]}, "answer is .*: without options"),
        ({"prompt": "x", "answer": {"two": 2}}, "answer is .*: without options"),
        ({"prompt": "x", "answer": []}, "answer is .*: an answer must not be empty"),
        ({"prompt": "x", "answer": ""}, "answer is '': an answer must not be empty"),
        ({"prompt": "x", "answer": ["two", " "]}, "answer is .*: an answer must not be empty"),
        ({"prompt": "x", "answer": ["two"] * 11}, "answer is .*: 11 answers, at most 10 are allowed"),
        ('{"prompt": "x", "answer": "\\ud800"}\n', "answer is .*: not valid Unicode"),
        ({"prompt": "x", "image": "absent.png"}, "image 'absent.png': there is no such file in .*--image-root DIR"),
        ({"prompt": "x", "image": "/etc/hostname"}, "'/etc/hostname' is outside .*: pass --image-root /etc$"),
        ({"prompt": "x", "image": ["/a/b c/d/e.png", "/a/b c/x/y.png"]}, "outside .*: pass --image-root '/a/b c'$"),
        (
            {"prompt": "x", "image": "a/../../b.png"},
            "has .. in it .*--image-root DIR, and write paths from there, without",
        ),
        ({"prompt": "x", "image": "a/../b.png"}, "image 'a/../b.png' has .. in it"),
        ({"prompt": "x", "image": ["/a/b.png", "c.png"]}, "absolute and relative paths together must lie below it"),
        ({"prompt": "x", "image": ""}, "image '' is not the name of a file"),
        ({"prompt": "x", "image": "a\0b"}, "is not the name of a file"),
        ({"prompt": "x" * (1 << 20)}, "longer than"),
        ('{"prompt": "\udcff"}\n', "the line is not UTF-8"),
        ('{"prompt": "\\ud800"}\n', "prompt is .*: not valid Unicode"),
        ('{"text": "\\ud800"}\n', "text is .*: not valid Unicode"),
        ('{"question": "x", "context": "\\ud800"}\n', "context is .*: not valid Unicode"),
        ('{"question": "x", "options": ["\\ud800"]}\n', "options is .*: not valid Unicode"),
        ({"prompt": "x", "image": "a" * 300}, "the file cannot be opened"),
        ({"x" * 100_000: 1}, "unknown key"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line, said):
    path = tmp_path / "x.jsonl"
    text = line if isinstance(line, str) else json.dumps(line) + "\n"
    path.write_bytes(b'{"prompt": "fine"}\n' + text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=said) as error:
        read_questions(path)
    assert error.value.where == f"{path}, line 2" and len(str(error.value)) < 1000


def byte_tokenizer(path) -> Tokenizer:
    """As LLaMA's: characters it does not know are bytes."""
    with open(path, "wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(["the cat and the hen and the cow"]),
            model_writer=file,
            model_type="bpe",
            byte_fallback=True,
            vocab_size=285,
            minloglevel=2,
        )
    return Tokenizer((path,), 300)  # the model's vocabulary is padded


def test_half_of_a_character_waits_for_its_other_half(tmp_path):
    tokenizer = byte_tokenizer(tmp_path / "tokenizer.model")
    ids = [*tokenizer.encode("the é"), 291, *tokenizer.encode("日 cat"), tokenizer.eos]
    stream = TextStream(tokenizer)
    pieces = [stream.push(token, last=i == len(ids) - 1) for i, token in enumerate(ids)]
    assert "".join(pieces) == tokenizer.decode(ids) and "é" in pieces and "日" in pieces
    assert all("\ufffd" not in piece for piece in pieces)
    half = TextStream(tokenizer)
    broken = tokenizer.encode("é")[:-1]
    assert [half.push(token, last=False) for token in broken] == ["" for _ in broken]
    assert half.push(tokenizer.encode("é")[-2], last=True).endswith("\ufffd")  # nothing more will come
    for cut in range(len(ids)):  # taken up again anywhere
        before, after = TextStream(tokenizer), TextStream(tokenizer, ids[:cut])
        text = "".join(before.push(token, last=False) for token in ids[:cut])
        text += "".join(after.push(token, last=token == ids[-1]) for token in ids[cut:])
        assert text == tokenizer.decode(ids)
    with pytest.raises(UserError, match="not valid Unicode"):
        tokenizer.encode("\ud800")


def test_tokenizers_that_do_not_fit(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"no sentencepiece model")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        Tokenizer((path,), 128)
    whole = (TINY.folder / "weights" / "tokenizer.model").read_bytes()
    assert b"the" in whole
    path.write_bytes(whole.replace(b"the", b"th\xff"))  # no piece of it is text
    with pytest.raises(UserError, match="not a sentencepiece model"):
        Tokenizer((path,), 128)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="the tokenizer has 128 tokens, but the model 96"):
        Tokenizer((path,), 96)


@pytest.mark.parametrize("size", [(1, 101), (30000, 1)])
def test_an_image_that_is_a_line_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "line.png")
    with pytest.raises(UserError, match="one side is more than 100 times the other"):
        read_image(tmp_path / "line.png")


def test_a_key_that_is_there_twice_is_named_with_its_line(tmp_path):
    """JSON's readers take the last one, silently."""
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b", "image": [], "prompt": "c"}\n')
    with pytest.raises(UserError, match=r"the key 'prompt' is there twice .*q.jsonl, line 3.: keep one"):
        read_questions(path)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"question": "hi"}, r"{'question': 'hi'} is not a question \(question 1\): give a text or a Question"),
        (5, r"5 is not a question \(question 1\)"),
        (["hi", 5], r"5 is not a question \(question 2\)"),
        (["hi", "\ud800"], r"question is .*: not valid Unicode text \(question 2\): correct the text"),
    ],
)
def test_only_texts_and_questions_are_asked(given, said):
    with pytest.raises(UserError, match=said):
        as_questions(given)
    asked = Question(question="hi")
    assert as_questions("hi") == as_questions(asked) == as_questions(each for each in ["hi"]) == [asked]
