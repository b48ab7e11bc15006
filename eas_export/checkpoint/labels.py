"""The answers that a classifier's logits stand for, in their order: a JSON list, a JSON object or JSON lines of answers with their numbers,
or a text with an answer on each line.

Formats: label2ans lists ["net", "pitcher", ..]; ans2label {"net": 0, ..} and the other way round {"0": "net", ..}; config.json of a
classifier of transformers, which has the latter as id2label; answer2label.txt with {"answer": "net", "label": 0} on each line
"""

import json
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..system.files import require_file

LABELS = "labels.json"  # in a bundle: a JSON list
LONGEST = 1 << 24  # bytes; VQAv2's 3129 answers take 50 kB
FIX = "give the answers in the order of training: a JSON list, a JSON object of answers and numbers, or an answer on each line"


def read_labels(path: Path, number: int) -> tuple[str, ...]:
    """The file's answers in the order of their logits. Raises UserError unless there are `number` different ones."""
    try:
        with open(require_file(path), "rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST} bytes")
        words = _words(content.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the file has no list of answers ({error})", where=path, fix=FIX) from None
    if len(words) != number:
        what = f"the file has {len(words)} answers, but the model {number}"
        raise UserError(what, where=path, fix="give the list that the model was trained with")
    return words


def _words(text: str) -> tuple[str, ...]:
    """The answers by their numbers. Raises ValueError for texts of another form, and where an answer or a number is there twice."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError:
        lines = [line.strip() for line in text.splitlines()]
        if lines and lines[0].startswith("{"):
            return _numbered(_line(line) for line in lines if line)
        return _different([line for line in lines if line])
    if isinstance(value, dict):
        value = value.get("id2label", value)
    if isinstance(value, list):
        return _different(value)
    if not isinstance(value, dict):
        raise ValueError(f"it is a JSON {type(value).__name__}")
    if set(value) == {"answer", "label"}:
        return _numbered([(value["answer"], value["label"])])
    if all(isinstance(each, str) for each in value.values()):
        return _numbered((word, int(number) if number.isdecimal() else number) for number, word in value.items())
    return _numbered(value.items())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _different([key for key, _ in pairs])
    return dict(pairs)


def _line(line: str) -> tuple[Any, Any]:
    value = json.loads(line)
    if not isinstance(value, dict) or set(value) != {"answer", "label"}:
        raise ValueError(f'a line is {reprlib.repr(value)}, expected {{"answer": .., "label": ..}}')
    return value["answer"], value["label"]


def _numbered(pairs: Iterable[tuple[Any, Any]]) -> tuple[str, ...]:
    words: dict[int, Any] = {}
    for word, number in pairs:
        if type(number) is not int:
            raise ValueError(f"the number of {reprlib.repr(word)} is {reprlib.repr(number)}")
        if number in words:
            raise ValueError(f"the number {number} is there twice")
        words[number] = word
    missing = set(range(len(words))) - set(words)
    if missing:
        raise ValueError(f"the number {min(missing)} is missing")
    return _different([words[number] for number in range(len(words))])


def _different(words: list[Any]) -> tuple[str, ...]:
    seen: set[str] = set()
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"{reprlib.repr(word)} is not a text")
        word.encode("utf-8")  # a half of a surrogate pair is an error of its own
        if word in seen:
            raise ValueError(f"{reprlib.repr(word)} is there twice")
        seen.add(word)
    return tuple(words)
