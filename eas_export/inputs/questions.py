"""Questions as Prompts, and JSON-lines files of questions.

One line, one JSON object with the keys of question.Question:
    {"prompt": "...", "image": "cat.png"}, {"prompt": "...", "image": ["cat.png", "dog.png"]}
    {"question": "Which is larger?", "context": "...", "options": ["the sun", "the moon"], "answer": "A"}
or of LLaVA's question files (question.jsonl, read by its llava/eval/model_vqa*):
    {"question_id": 7, "image": "cat.png", "text": "What is shown?", "category": "default"}
"""

import codecs
import json
import os
import reprlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ..core.configs.decoder import ModelConfig
from ..core.errors import UserError
from ..core.limits import Limits
from ..core.record import KeyTwice, refusal, unique
from ..families.contract import Family
from ..families.processing.image_processor import read_image
from ..families.processing.question import FileQuestion, Question
from ..families.processing.tokenizer import Tokenizer
from ..networks.decoder.prompts import Prompts
from ..system.files import require_file, require_folder, standard_input
from .npz import make_inputs, require_tower

STDIN = Path("-")  # in place of a file's path
ONE_FOLDER = "name the folder of all images, --image-root DIR, and write paths from there"
LONGEST_LINE = 1 << 20  # bytes; a prompt is a few kilobytes


def holds_questions(path: Path) -> bool:
    """Whether an input file has questions (.jsonl, or standard input) or arrays (.npz). Raises UserError for other names."""
    if path == STDIN:
        return True
    if require_file(path).suffix.lower() not in (".jsonl", ".npz"):
        what = f"unknown file type {path.suffix!r}: expected .jsonl or .npz"
        raise UserError(what, where=path, fix="give questions as .jsonl, or token ids as .npz")
    return path.suffix.lower() == ".jsonl"


def require_no_root(image_root: Path | None, inputs: Path | None) -> None:
    """Raise UserError for a folder of images without a file of questions that could name them."""
    if image_root and not (inputs and holds_questions(inputs)):
        fix = "leave --image-root out"
        raise UserError("only the images of a jsonl file are looked for in a folder", where="--image-root", fix=fix)


def read_questions(path: Path, image_root: Path | None = None) -> list[Question]:
    """The questions on the file's lines, their image paths resolved; blank lines are skipped. Raises UserError that names the line.

    path        STDIN for standard input
    image_root  the folder that has the images, default the file's, or that of the process; no path in the file leaves it
    """
    lines, number, name = [], 0, "standard input" if path == STDIN else path
    try:
        file = nullcontext(standard_input().buffer) if path == STDIN else open(require_file(path), "rb")
    except OSError as error:
        what = f"the file cannot be opened ({error.strerror})"
        raise UserError(what, where=path, fix="check its permissions") from None
    with file as opened:
        while line := opened.readline(LONGEST_LINE + 1):
            number += 1
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if line.strip():
                where = f"{name}, line {number}"
                lines.append((_parse(line, where), where))
    if not lines:
        raise UserError("there are no questions", where=name, fix="write one JSON object per line")
    if image_root:
        require_folder(image_root, "give the folder of the images: --image-root DIR")
    root = _Root(image_root or path.parent, [name for question, _ in lines for name in question.image])
    return [question.plain(root.find(question.image, where)).at(where) for question, where in lines]


def read_texts(path: Path, image: Sequence[str]) -> list[Question]:
    """The questions of a file without images, .jsonl or .txt with one on each line, each about the given ones. Raises UserError as
    `read_questions` does, and for a line with an image of its own."""
    if path.suffix.lower() == ".txt":
        lines = require_file(path).read_text("utf-8-sig", errors="replace").splitlines()
        return [Question(question=line.strip(), image=tuple(image)) for line in lines if line.strip()]
    questions = read_questions(path) if holds_questions(path) else []
    if not questions:
        raise UserError("arrays have their own images", where=path, fix="leave --image out")
    for number, question in enumerate(questions, start=1):
        if question.image:
            what = "the line has an image of its own, beside --image"
            raise UserError(what, where=question.where(number), fix="leave --image out, or the images in the file")
    return [each.model_copy(update={"image": tuple(image)}) for each in questions]


def make_prompt(
    question: Question,
    config: ModelConfig,
    family: Family,
    tokenizer: Tokenizer,
    where: str,
    exif_rotate: bool = False,
) -> Prompts:
    """Turn a question into a batch of one row. Raises UserError for an image that cannot be read or does not fit the model."""
    with located(where):
        ids = encode_question(question, config, family, tokenizer)
        images = [
            family.prompts.pixels(config, read_image(Path(name), exif_rotate=exif_rotate)) for name in question.image
        ]
    require_known(ids, config, tokenizer, where)
    arrays = {"input_ids": np.array([ids]), "prompt_lengths": np.array([len(ids)])}
    if images:
        rows = np.zeros(len(images), np.int64)
        arrays |= {"pixel_values": np.stack([image.numpy() for image in images]), "image_row": rows}
    return make_inputs(arrays, config, family, where).prompts


def require_known(ids: Sequence[int], config: ModelConfig, tokenizer: Tokenizer, where: str) -> None:
    """Raise UserError for a token of a text that the model has no embedding for, as the pad token that training added often is."""
    unknown = next((token for token in ids if token >= config.vocab_size), None)
    if unknown is not None:
        what = f"the text has the token {tokenizer.name(unknown)!r} (id {unknown}), but the model knows {config.vocab_size} tokens"
        raise UserError(what, where=where, fix="leave that token out of the text")


def encode_question(question: Question, config: ModelConfig, family: Family, tokenizer: Tokenizer) -> list[int]:
    """The question's token ids, image placeholders included. Raises UserError for an image where the model takes text only."""
    if question.image:
        require_tower(config, "image")
    if question.prompt is None and question.question is None:
        what = "there are options, but no question"
        raise UserError(what, where="question", fix="pass --question TEXT, or the key question in a file")
    return family.prompts.ids(config, tokenizer, question)


def prompt_length(question: Question, config: ModelConfig, family: Family, tokenizer: Tokenizer) -> int:
    """Tokens of the question's prompt, image features included."""
    ids = encode_question(question, config, family, tokenizer)
    return len(family.prompts.place_images(config, ids, len(question.image))[0])


def require_short(
    question: Question, config: ModelConfig, family: Family, tokenizer: Tokenizer, limits: Limits, where: str
) -> None:
    """Raise UserError if the question's prompt is longer, or has more images, than the limits allow."""
    with located(where):
        length, images = prompt_length(question, config, family, tokenizer), len(question.image)
    if images > limits.max_images:
        what, fix = (
            f"{images} images in a prompt, the bundle takes {limits.max_images}",
            f"build with --max-images {images}",
        )
        raise UserError(what, where=where, fix=f"{fix}, or give fewer")
    if length > limits.max_prompt:
        tokens = length + limits.max_tokens - limits.max_prompt  # as much room for an answer
        fix = f"shorten the prompt, or build with --max-prompt {length} --max-tokens {tokens}"
        raise UserError(f"{length} prompt tokens, the bundle takes {limits.max_prompt}", where=where, fix=fix)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put the question's place before that of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(error.what, where=f"{where}: {error.where}", fix=error.fix) from None


class _Root:
    """The folder that has the images of a file of questions; names are all of the file's."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder, self.names = folder, names

    def find(self, names: Sequence[str], where: str) -> list[str]:
        """The paths of images. Raises UserError for one that is outside the folder, or no file."""
        return [self._find(name, where) for name in names]

    def _find(self, name: str, where: str) -> str:
        path, shown = self.folder / name, reprlib.repr(name)
        if not Path(name).parts or "\0" in name:
            raise UserError(f"image {shown} is not the name of a file", where=where, fix="name the image's file")
        root = Path(os.path.abspath(self.folder))
        if ".." in Path(name).parts:
            raise UserError(f"image {shown} has .. in it", where=where, fix=f"{ONE_FOLDER}, without ..")
        if not Path(os.path.abspath(path)).is_relative_to(root):
            what = f"image {shown} is outside {self.folder}, where the images are looked for"
            raise UserError(what, where=where, fix=self._remedy())
        try:
            require_file(path)
        except UserError as error:
            there, fix = os.path.exists(path), f"{error.fix}, or name the images' folder: --image-root DIR"
            what = f"image {shown}: {error.what}{'' if there else f' in {self.folder}'}"
            raise UserError(what, where=where, fix=error.fix if there else fix) from None
        return str(path)

    def _remedy(self) -> str:
        if not all(Path(each).is_absolute() for each in self.names):
            return f"{ONE_FOLDER}; absolute and relative paths together must lie below it"
        folders = [os.path.dirname(os.path.normpath(each)) for each in self.names]
        return f"pass --image-root {shlex.quote(os.path.commonpath(folders))}"


def _parse(line: bytes, where: str) -> FileQuestion:
    if len(line) > LONGEST_LINE:
        raise UserError(f"the line is longer than {LONGEST_LINE} bytes", where=where, fix="give one question per line")
    example = 'write lines like {"prompt": "...", "image": "cat.png"}'
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise UserError("the line is not UTF-8 text", where=where, fix="save the file as UTF-8") from None
    except KeyTwice as error:
        what = f"the key {reprlib.repr(str(error))} is there twice"
        raise UserError(what, where=where, fix="keep one of the two") from None
    except (ValueError, RecursionError):
        raise UserError("the line is not JSON", where=where, fix=example) from None
    if not isinstance(value, dict):
        raise UserError(f"the line is a JSON {type(value).__name__}, not an object", where=where, fix=example)
    try:
        return FileQuestion.model_validate(value)
    except ValidationError as error:
        raise refusal(error, FileQuestion, "key", where) from None
