"""Numbers of a model that its files may lack: as they are recorded, else as options give them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .contract import Sources

LARGEST = 1 << 16


@dataclass(frozen=True)
class Number:
    """what      for "the checkpoint does not record ..."
    usual     its value in published models, for messages
    recorded  its name among a file's hyper-parameters; None where no file has it
    """

    what: str
    usual: str
    recorded: str | None = None


def settle(
    numbers: Mapping[str, Number], settings: Mapping[str, Any], sources: Sources, file: Path, **known: int | None
) -> dict[str, int]:
    """Every number by its field of Sources, where its option is found.

    settings  the file's hyper-parameters
    known     field -> a number that holds unless the option says another

    Raises UserError where file and option contradict each other, and one for all that are missing.
    """
    found: dict[str, int | None] = {}
    contradicted: dict[str, int] = {}
    for field, number in numbers.items():
        given, recorded = getattr(sources, field), number.recorded and settings.get(number.recorded)
        if given is None and recorded is not None:
            found[field] = setting(settings, number.recorded, file, f"pass {_option(field)} N ({number.usual})")
        else:
            found[field] = known.get(field) if given is None else given
            if type(recorded) is int and recorded != given:
                contradicted[field] = recorded
    if contradicted:
        ours = _listed([f"{field} is {found[field]}" for field in contradicted])
        theirs = _listed([f"{numbers[field].recorded} is {value}" for field, value in contradicted.items()])
        options = _listed([f"{_option(field)} {value}" for field, value in contradicted.items()])
        raise UserError(f"{ours}, but in the checkpoint {theirs}", where=file, fix=f"pass {options}")
    if missing := {field: numbers[field] for field, value in found.items() if value is None}:
        what = f"the checkpoint does not record {_listed([number.what for number in missing.values()])}"
        options = [f"{_option(field)} N ({number.usual})" for field, number in missing.items()]
        raise UserError(what, where=file, fix=f"pass {_listed(options)}")
    return found


def setting(settings: Mapping[str, Any], name: str, file: Path, fix: str) -> int:
    """The positive integer `name` of the hyper-parameters. Raises UserError for anything else."""
    value = settings.get(name)
    if type(value) is not int or not 0 < value <= LARGEST:
        raise UserError(f"hyper_parameters: {name} is not an integer from 1 to {LARGEST}", where=file, fix=fix)
    return value


def called(field: str, number: Number, sources: Sources) -> str:
    """What gave a number, for messages: its option, or its name in the file."""
    return _option(field) if number.recorded is None or getattr(sources, field) is not None else number.recorded


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
