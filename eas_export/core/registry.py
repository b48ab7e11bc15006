"""Look-ups in tables by name. Most tables are lazy: "name" -> "package.module:attribute", imported on look-up."""

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from .errors import UserError

T = TypeVar("T")


def find(table: Mapping[str, T], name: str, kind: str, where: str) -> T:
    """The row called `name`. Raises UserError with the nearest name and all names where there is none."""
    if name not in table:
        close = difflib.get_close_matches(name, list(table), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown {kind} {name!r}", where=where, fix=f"{hint}choose one of: {', '.join(table)}")
    return table[name]


def lookup(table: Mapping[str, str], name: str, kind: str, where: str) -> Any:
    """The object that `name` stands for in a lazy table. Raises UserError as `find` does."""
    return load(find(table, name, kind, where))


def load(place: str) -> Any:
    """The object at ".module:attribute" of this package, or at "package.module:attribute" of another."""
    module, attribute = place.split(":")
    return getattr(import_module(module, __package__.split(".")[0]), attribute)


def deferred(place: str, *first: Any) -> Callable[..., Any]:
    """The function at `place` with these first arguments; imported when it is called."""
    return lambda *others: load(place)(*first, *others)
