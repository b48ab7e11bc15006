"""Small JSON files beside weights (params.json, config.json, an index) as records, which check the few keys that are read."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..core.errors import UserError
from ..core.record import shown
from ..system.files import require_file

LONGEST = 1 << 26  # bytes; the index of a large model takes a megabyte
R = TypeVar("R", bound=BaseModel)


def read_json(path: Path, record: type[R], kind: str, fix: str) -> R:
    """The file as a `record`. Raises UserError, which says what is wrong with it; `kind` is what it calls the file."""
    try:
        with open(require_file(path), "rb") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} bytes")
        return record.model_validate(json.loads(text.decode("utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        raise UserError(f"the file is not {kind} ({reason(error)})", where=path, fix=fix) from None


def reason(error: Exception) -> Any:
    """What is wrong with a record's first value that is, by its key; another error as it is."""
    if not isinstance(error, ValidationError):
        return error
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    said = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    plain = first["type"] != "missing" and isinstance(value, str | int | float | None)
    is_value = f" is {'null' if value is None else shown(value)}" if plain else ""
    return f"{key}{is_value}: {said}" if key else said
