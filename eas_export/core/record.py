"""Records that are written to and read from JSON and YAML, and pydantic's errors as UserErrors. No torch here."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import UserError


class Record(BaseModel):
    """A frozen record that refuses unknown keys: the base of everything that is written to or read from JSON or YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")


LONGEST_NAME = 1024  # characters
Size = Annotated[int, Field(gt=0, le=1 << 24)]  # no dimension of a model is larger


R = TypeVar("R", bound=BaseModel)


def refusal(error: ValidationError, record: type[BaseModel], kind: str, where: object) -> UserError:
    """The error for the first invalid value of `record`; `kind` is what messages call its keys ("option", "key")."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, record.model_fields, n=1)
        fix = f"did you mean {close[0]}?" if close else f"the {kind}s are: {', '.join(record.model_fields)}"
        return UserError(f"unknown {kind} {reprlib.repr(key)}", where=where, fix=fix)
    if key:
        return UserError(_reason(first), where=where, fix=f"correct the {kind}")
    what, _, fix = _reason(first).partition(": ")  # of values that do not go together, a record may say what to do
    return UserError(what, where=where, fix=fix or f"the {kind}s are: {', '.join(record.model_fields)}")


def _reason(error: Mapping[str, Any]) -> str:
    key, reason = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    return f"{key} is {shown(error['input'])}: {reason}" if key else reason


class KeyTwice(Exception):
    """A JSON object has a key twice."""


def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate keys: json.loads's object_pairs_hook for what users write. Raises KeyTwice."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise KeyTwice(key)
        result[key] = value
    return result


def validated(record: type[R], where: object, fix: str, **values: Any) -> R:
    """`record(**values)` with sizes from a file's shapes and keys. Raises UserError for a size that no model has."""
    try:
        return record(**values)
    except ValidationError as error:
        raise UserError(_reason(error.errors()[0]), where=where, fix=fix) from None


def shown(value: Any) -> str:
    """A value, shortened in the middle."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else "too long to show"


def quoted(name: str) -> str:
    """A key, a path or a name on the hub that a file holds, whole unless none is so long, for messages."""
    return repr(name[:LONGEST_NAME])
