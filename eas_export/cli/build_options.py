"""click options made from the fields of core/options.BuildOptions."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_origin

import click

from ..core.choices import choices_of, parts_of
from ..core.options import BuildOptions, options_of

ABOUT = options_of(BuildOptions)
SETTINGS = tuple(name for name, about in ABOUT.items() if about.of_checkpoint)  # that a checkpoint's files may lack


def build_options(names: Iterable[str] = tuple(ABOUT)) -> Callable[[Callable], Callable]:
    """A decorator that adds these options to a command, in this order. An option that is not on the command line is passed as None."""

    def decorate(command: Callable) -> Callable:
        for name in reversed([*names]):
            command = _option(name)(command)
        return command

    return decorate


def _option(name: str) -> Callable[[Callable], Callable]:
    field, about = BuildOptions.model_fields[name], ABOUT[name]
    kinds, choices = [*parts_of(field.annotation)], choices_of(field)
    values = {str(choice): choice for choice in choices}

    def read(context: click.Context, parameter: click.Parameter, given: Any) -> Any:
        if parameter.multiple:
            return tuple(values.get(each, each) for each in given) or None
        return values.get(given, given)

    return click.option(
        f"--{name.replace('_', '-')}",
        type=click.Choice([*values]) if values else next(kind for kind in (int, float, str) if kind in kinds),
        multiple=tuple in map(get_origin, kinds),
        metavar=about.metavar,
        help=_help(about.help, choices, about.by_default or field.default),
        callback=read,
    )


def _help(text: str, choices: Mapping[Any, Any], default: Any) -> str:
    """The help text with the meanings of the choices, where their rows have one, and the default."""
    meanings = [f"{name}: {row.help}" for name, row in choices.items() if hasattr(row, "help")]
    default = ", ".join(default) if isinstance(default, tuple) else default
    return " ".join([text, "; ".join(meanings)]).strip() + ("" if default is None else f"  [default: {default}]")
