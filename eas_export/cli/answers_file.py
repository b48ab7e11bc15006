"""--outputs of questions, a line per answer, and what an interrupted run has written to it, for --resume."""

import functools
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..families.processing.question import Question
from ..system.files import Lines, written_by_line
from ..system.hashing import FilePrint, file_print, key_of, sha256_of
from .run_options import RunOptions

ASKED = {"question", "question_id", "prompt"}  # keys of a line that are not the answer's
IMAGES = "images"  # the key of a line, until the run has ended, for the images that it was answered with


def answers_key(bundle: Bundle, questions: Sequence[Question], options: RunOptions, *how: Any) -> str:
    """What answers depend on, as a hash; images count by their paths. how: beside the backend and the way in which images are read"""
    images = [[os.path.realpath(name) for name in question.image] for question in questions]
    texts = [question.model_dump(mode="json", exclude={"image"}) for question in questions]
    return key_of(bundle.manifest.key, texts, images, [*how, options.backend, options.exif_rotate])


@contextmanager
def answers_file(
    options: RunOptions, key: str, group: int, images: Sequence[Sequence[str]], forms: Collection[set[str]]
) -> Iterator[tuple[list[dict], Callable[[dict], None]]]:
    """The answers so far, those of an interrupted run at first, and what adds one to them and to --outputs, if there is one.

    key, group  see system/files.written_by_line
    images      the paths of each question's images: whoever repairs one that stopped the run can go on, but answers to others do not stay
    forms       the keys that an answer may have

    Raises UserError where somebody changed the file, or an image of an answer in it.
    """
    answers: list[dict] = []
    if options.outputs is None:
        yield answers, answers.append
        return
    with written_by_line(options.outputs, key, options.resume, group, _without_images) as lines:
        answers += _kept(lines, images, forms)
        if answers:
            options.progress.note("resumed", {"answers kept": len(answers), "of": len(images)})

        def add(answer: dict) -> None:
            seen = {IMAGES: _images_key(own)} if (own := images[len(answers)]) else {}
            lines.write(json.dumps(answer | seen, ensure_ascii=False))
            answers.append(answer)

        try:
            yield answers, add
        except BaseException as error:
            if answers:
                click.echo(f"the first {len(answers)} answers are in {lines.partial}", err=True)
                error.add_note("the same command with --resume goes on after the answers that are there")
            raise


def _kept(lines: Lines, images: Sequence[Sequence[str]], forms: Collection[set[str]]) -> list[dict]:
    try:
        "".join(map(_without_images, lines.kept)).encode()
        answers = [json.loads(line) for line in lines.kept]
        seen = [answer.pop(IMAGES, None) for answer in answers]
        numbered = [answer["question"] for answer in answers] == [*range(1, len(answers) + 1)]
        whole = all(answer.keys() - ASKED in forms for answer in answers)
        whole = whole and [each is None for each in seen] == [not own for own in images[: len(seen)]]
    except (ValueError, TypeError, KeyError, AttributeError):
        numbered = whole = False
    fix = "delete the file, and start again"
    if not numbered or not whole:
        raise UserError("the partial output is damaged", where=lines.partial, fix=fix)
    for number, (own, before) in enumerate(zip(images, seen), start=1):
        if own and _images_key(own) != before:
            what = f"an image of question {number} has changed since it was answered: {', '.join(own[:3])}"
            raise UserError(what, where=lines.partial, fix=f"put the image back, or {fix}")
    return answers


def _without_images(line: str) -> str:
    answer = json.loads(line)
    answer.pop(IMAGES, None)
    return f"{json.dumps(answer, ensure_ascii=False)}\n"


def _images_key(names: Sequence[str]) -> str:
    """A hash of the images' names and bytes; of no use where one cannot be read."""
    try:
        return key_of([[os.path.basename(name), _sha256(name, file_print(Path(name)))] for name in names])
    except OSError:
        return "unreadable"


@functools.cache
def _sha256(name: str, _: FilePrint) -> str:
    return sha256_of(Path(name))
