"""What an interrupted run has written to --outputs, for --resume."""

import json
import os
from collections.abc import Sequence
from typing import Any

from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..families.processing.question import Question
from ..system.files import Lines
from ..system.hashing import key_of
from .run_options import RunOptions


def answers_key(bundle: Bundle, questions: Sequence[Question], options: RunOptions, *how: Any) -> str:
    """What answers depend on, as a hash; images count by their paths. how: beside the backend and the way in which images are read"""
    images = [[os.path.realpath(name) for name in question.image] for question in questions]
    texts = [question.model_dump(mode="json", exclude={"image"}) for question in questions]
    return key_of(bundle.manifest.key, texts, images, [*how, options.backend, options.exif_rotate])


def kept_answers(lines: Lines) -> list[dict]:
    """The answers of an interrupted run. Raises UserError where somebody changed their file."""
    try:
        answers = [json.loads(line) for line in lines.kept]
        if [answer["question"] for answer in answers] == [*range(1, len(answers) + 1)]:
            return answers
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError("the partial output is damaged", where=lines.partial, fix="delete the file, and start again")
