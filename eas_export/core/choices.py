"""Choices that are the keys of a table. Core imports no other folder, so a table is given by its place and loaded when a value is checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from .registry import load


@dataclass(frozen=True)
class RowOf:
    """Annotates a type whose values are the keys of a table.

    table  ".module:attribute" of the mapping, or of a function that returns it
    """

    table: str

    @property
    def rows(self) -> Mapping[Any, Any]:
        table = load(self.table)
        return table() if callable(table) else table

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def _check(self, value: Any) -> Any:
        names = list(self.rows)
        if value in names:
            return value
        *others, last = map(repr, names)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise PydanticKnownError("literal_error", {"expected": expected})


def parts_of(annotation: Any) -> Iterator[Any]:
    """A type with its arguments and annotations, all levels of them: Annotated[str, x] | None -> .., str, x, NoneType"""
    yield annotation
    for part in () if get_origin(annotation) is Literal else get_args(annotation):
        yield from parts_of(part)


def choices_of(field: FieldInfo) -> Mapping[Any, Any]:
    """Each value that a field may have -> its row of the table (None in a Literal); empty for a field without a list of values."""
    for part in (*parts_of(field.annotation), *field.metadata):
        if isinstance(part, RowOf):
            return part.rows
        if get_origin(part) is Literal:
            return dict.fromkeys(get_args(part))
    return {}
