"""Questions as Prompts, and JSON-lines files of questions.

One line, one JSON object with the keys of question.Question:
    {"prompt": "...", "image": "cat.png"}
    {"question": "Which is larger?", "context": "...", "options": ["the sun", "the moon"]}
"""

import difflib
import json
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ..config import ModelConfig
from ..conversation import Prompts
from ..errors import UserError
from ..family import Family
from ..files import require_file
from ..images import read_image
from ..question import FileQuestion, Question
from ..tokenizer import Tokenizer
from .npz import make_inputs

LONGEST_LINE = 1 << 20  # bytes; a prompt is a few kilobytes


def holds_questions(path: Path) -> bool:
    """Whether a file of inputs holds questions (.jsonl) or arrays (.npz). Raises UserError for other names."""
    if require_file(path).suffix.lower() not in (".jsonl", ".npz"):
        raise UserError(
            "its name says not what it is", where=path, fix="give questions as .jsonl, or token ids as .npz"
        )
    return path.suffix.lower() == ".jsonl"


def read_questions(path: Path) -> list[Question]:
    """Every line of the file, checked, its image's path made whole. Raises UserError that names the line."""
    questions = []
    with open(require_file(path), "rb") as file:
        while line := file.readline(LONGEST_LINE + 1):
            questions.append(_parse(line, path, f"{path}, line {len(questions) + 1}"))
    return questions


def make_prompt(question: Question, config: ModelConfig, family: Family, tokenizer: Tokenizer, where: str) -> Prompts:
    """One question as a batch of one row. Raises UserError for an image that cannot be read, or does not fit the model."""
    images = [family.pixels(config, read_image(Path(question.image)))] if question.image is not None else []
    ids = encode_question(question, config, family, tokenizer)
    arrays = {"input_ids": np.array([ids])}
    if images:
        arrays |= {"pixel_values": np.stack([image.numpy() for image in images]), "image_row": np.array([0])}
    return make_inputs(arrays, config, family, where).prompts


def encode_question(question: Question, config: ModelConfig, family: Family, tokenizer: Tokenizer) -> list[int]:
    """The question's token ids, image placeholders included."""
    text = question.prompt if question.prompt is not None else family.format(question)
    return family.encode(config, tokenizer, text, int(question.image is not None))


def _parse(line: bytes, path: Path, where: str) -> Question:
    if len(line) > LONGEST_LINE:
        raise UserError(f"the line is longer than {LONGEST_LINE} bytes", where=where, fix="give one question per line")
    try:
        question = FileQuestion.model_validate(json.loads(line.decode("utf-8")))
    except ValidationError as error:
        raise _refusal(error, where) from None
    except (ValueError, RecursionError):
        raise UserError(
            "it is not a JSON object", where=where, fix='write lines like {"prompt": "...", "image": "cat.png"}'
        ) from None
    if question.image is None:
        return Question(**question.model_dump())
    image = path.parent / question.image
    try:
        require_file(image)
    except UserError as error:
        raise UserError(f"image {question.image}: {error.what}", where=where, fix=error.fix) from None
    return Question(**question.model_dump() | {"image": str(image)})


def _refusal(error: ValidationError, where: str) -> UserError:
    first = error.errors()[0]
    key, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    known = ", ".join(Question.model_fields)
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, Question.model_fields, n=1)
        return UserError(
            f"unknown key {key!r}", where=where, fix=f"did you mean {close[0]}?" if close else f"there are: {known}"
        )
    return UserError(f"{key}: {said}" if key else said, where=where, fix=f"the keys are: {known}")
