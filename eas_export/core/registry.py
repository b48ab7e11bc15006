"""Lazy tables of things by name: "name" -> "package.module:attribute", imported when it is asked for."""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from .errors import UserError


def lookup(table: Mapping[str, str], name: str, kind: str, where: str) -> Any:
    """The thing that `name` stands for. Raises UserError with the nearest names when there is none."""
    if name not in table:
        close = difflib.get_close_matches(name, list(table), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown {kind} {name!r}", where=where, fix=f"{hint}there are: {', '.join(table)}")
    return load(table[name])


def load(place: str) -> Any:
    """What lies at ".module:attribute" of this package."""
    module, attribute = place.split(":")
    return getattr(import_module(module, __package__.split(".")[0]), attribute)
