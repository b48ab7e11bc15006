"""A user's question: text and images, from the options of `run` or from one line of a JSON-lines file."""

import os
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import ClassVar, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from ...core.errors import UserError
from ...core.record import Record, refusal, shown

MOST_IMAGES = 100  # of one question
MOST_ANSWERS = 10  # human answers to one question, as in VQA's files


class Question(Record):
    """Either `prompt`, which the model reads verbatim, or `question`, which is put into the family's prompt format; neither where a
    model ranks `options` by how well they describe an image.

    context, options  go with `question`: background, and the answers to choose from
    system            goes with `question`: the system message before it, in models with a chat template
    image             one file or several, in the order of the text
    answer            the label, for verification and training. With options the right one: its letter, text or index, stored as the
                      index from 0. Without options the human answers: one text or up to ten
    question_id       comes back with the answer
    """

    FORMS: ClassVar[tuple[str, ...]] = ("prompt", "question")  # exactly one of them is given

    prompt: str | None = None
    question: str | None = None
    context: str | None = None
    system: str | None = None
    options: tuple[str, ...] = Field(default=(), max_length=26)  # (A) to (Z)
    image: tuple[str, ...] = Field(default=(), max_length=MOST_IMAGES)
    answer: int | tuple[str, ...] | None = None
    question_id: int | str | None = None
    _where: str | None = None

    def at(self, where: str) -> Self:
        """The question, whose place in a file messages name."""
        self._where = where
        return self

    def where(self, number: int) -> str:
        """What messages call it: its place in a file, or its number."""
        return self._where or f"question {number}"

    @field_validator("options", mode="before")
    @classmethod
    def _none_is_empty(cls, options: object) -> object:
        return () if options is None else options

    @field_validator("image", mode="before")
    @classmethod
    def _one_is_a_list(cls, image: object) -> object:
        images = () if image is None else (image,) if isinstance(image, str | os.PathLike) else image
        is_list = isinstance(images, list | tuple)
        return (
            tuple(os.fspath(each) if isinstance(each, os.PathLike) else each for each in images) if is_list else image
        )

    @field_validator("answer", mode="before")
    @classmethod
    def _is_an_answer(cls, answer: object, info: ValidationInfo) -> int | tuple[str, ...] | None:
        if answer is None:
            return None
        options = info.data.get("options")
        return _find_option(answer, options) if options else _read_answers(answer)

    @field_validator("question_id", mode="before")
    @classmethod
    def _is_an_id(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | str | None):
            raise ValueError("an id is a text or a whole number")
        return value

    @field_validator("*")
    @classmethod
    def _is_unicode(cls, value: str | tuple[str, ...] | int | None) -> str | tuple[str, ...] | int | None:
        try:
            "".join(value if isinstance(value, str | tuple) else ()).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("not valid Unicode text") from None
        return value

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = sum(getattr(self, form) is not None for form in self.FORMS)
        if given > 1 or (given == 0 and not self.options):
            *others, last = map(repr, self.FORMS)
            raise ValueError(f"a question needs either {', '.join(others)} or {last}: give one of them")
        if self.prompt is not None and (self.context is not None or self.options or self.system is not None):
            name = "context and options go" if self.system is None else "a system message goes"
            raise ValueError(f"{name} with question, not with prompt: give question in place of prompt")
        return self


class FileQuestion(Question):
    """A line of a questions file, which may have the keys of LLaVA's question files: `text` is `question`, and nothing reads
    `category`."""

    FORMS: ClassVar[tuple[str, ...]] = (*Question.FORMS, "text")

    text: str | None = None
    category: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_label_is_an_answer(cls, values: object) -> object:
        """As datasets of true and false statements call it."""
        if not isinstance(values, dict) or "label" not in values or "answer" in values:
            return values
        return {"answer" if key == "label" else key: value for key, value in values.items()}

    def plain(self, image: Sequence[str]) -> Question:
        """The question, with the paths of its images."""
        known = {name: getattr(self, name) for name in Question.model_fields}
        question = self.question if self.text is None else self.text
        return Question(**known | {"question": question, "image": tuple(image)})


def lines_of(question: Question, asked: str) -> list[str]:
    """A question's context, text `asked` and options, a line each, in the format of LLaVA's ScienceQA evaluation."""
    lines = [f"Context: {question.context}"] if question.context else []
    lines += [asked, *(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, question.options))]
    return lines + ["Answer with the option's letter from the given choices directly."] * bool(question.options)


def as_questions(given: str | Question | Iterable[str | Question]) -> list[Question]:
    """One question or several as a list; a text is a Question(question=text). Raises UserError for anything else, and for invalid Unicode."""
    several = given if isinstance(given, Iterable) and not isinstance(given, str | Question | Mapping) else [given]
    return [_as_question(each, f"question {number}") for number, each in enumerate(several, start=1)]


def _as_question(given: object, where: str) -> Question:
    if isinstance(given, Question):
        return given
    if not isinstance(given, str):
        fix = 'give a text or a Question: Question(question="...", image="cat.png")'
        raise UserError(f"{shown(given)} is not a question", where=where, fix=fix)
    try:
        return Question(question=given)
    except ValidationError as error:
        raise refusal(error, Question, "text", where) from None


def _find_option(answer: object, options: tuple[str, ...]) -> int:
    """The index of the one option that the answer names. Raises ValueError where it names none, or several."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(options):
            raise ValueError(f"expected an option's index from 0 to {len(options) - 1}")
        return answer
    if not isinstance(answer, str):
        raise ValueError("with options, an answer is the right one's letter, text or index")
    answer = answer.strip()
    if not answer:
        raise ValueError("an answer must not be empty")
    named = [i for i, text in enumerate(options) if answer in (ascii_uppercase[i], text.strip())]
    if len(named) != 1:
        none = f"expected a letter from A to {ascii_uppercase[len(options) - 1]} or the text of an option"
        raise ValueError(f"the answer names {len(named)} options: give the index" if named else none)
    return named[0]


def _read_answers(answer: object) -> tuple[str, ...]:
    """One text, true or false, or several texts, as a tuple."""
    answer = str(answer).lower() if isinstance(answer, bool) else answer
    answers = (answer,) if isinstance(answer, str) else answer
    if not isinstance(answers, list | tuple) or not all(isinstance(text, str) for text in answers):
        raise ValueError(f"without options, an answer is a text, or a list of up to {MOST_ANSWERS} texts")
    if not answers or not all(text.strip() for text in answers):
        raise ValueError("an answer must not be empty")
    if len(answers) > MOST_ANSWERS:
        raise ValueError(f"{len(answers)} answers, at most {MOST_ANSWERS} are allowed")
    return tuple(answers)
