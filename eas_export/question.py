"""What a user asks: text, and images that belong to it. As options of `run`, or as one line of a JSON-lines file."""

from pathlib import PurePosixPath

from pydantic import Field, field_validator, model_validator

from .config import Record


class Question(Record):
    """Either `prompt`, which the model reads as it is, or `question`, which is put into the family's own format.

    context, options  go with `question`: what is known, and the answers to choose from
    image             a file; in a JSON-lines file a path below that file's folder
    """

    prompt: str | None = None
    question: str | None = None
    context: str | None = None
    options: tuple[str, ...] = Field(default=(), max_length=26)  # (A) to (Z)
    image: str | None = None

    @field_validator("options", mode="before")
    @classmethod
    def _none_is_empty(cls, options: object) -> object:
        return () if options is None else options

    @field_validator("prompt", "question", "context", "options", "image")
    @classmethod
    def _is_unicode(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        try:
            "".join(value or ()).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("it is not valid Unicode text") from None
        return value

    @model_validator(mode="after")
    def _one_form(self) -> "Question":
        if (self.prompt is None) == (self.question is None):
            raise ValueError("give either prompt or question")
        if self.prompt is not None and (self.context is not None or self.options):
            raise ValueError("context and options go with question, not with prompt")
        return self


class FileQuestion(Question):
    """A question whose image path was read from a file."""

    @field_validator("image")
    @classmethod
    def _stays_in_the_folder(cls, image: str | None) -> str | None:
        if image is not None:
            path = PurePosixPath(image)
            if path.is_absolute() or ".." in path.parts or "\0" in image or not path.parts:
                raise ValueError("an image is a path inside the file's folder")
        return image
