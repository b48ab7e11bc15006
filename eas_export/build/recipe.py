"""Build options from the command line, a recipe, or both. A recipe is a YAML file with the same keys; the command line takes precedence."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.errors import UserError
from ..core.options import DEFAULT_MAX_PROMPT, BuildOptions
from ..core.record import refusal
from ..system.files import require_file

LONGEST_RECIPE = 1 << 16  # bytes; a recipe is a few lines


@dataclass(frozen=True)
class Request:
    """Resolved options, where the skip list comes from (see plan.choose_plan), and notes for the user."""

    options: BuildOptions
    given_skip: str | None
    recipe_skip: tuple[str, str] | None
    notes: tuple[str, ...] = ()
    written: Mapping[str, Path] = field(default_factory=dict)  # option as it is typed -> the recipe that sets it

    @contextmanager
    def suiting(self) -> Iterator[None]:
        """Put the recipe in place of an option of its own that a UserError says to leave out: nobody typed it."""
        try:
            yield
        except UserError as error:
            if error.where not in self.written:
                raise
            what = f"the recipe sets {_as_option(error.where.removeprefix('--'))}: {error.what}"
            fix = error.fix.replace(f"leave {error.where} out", "give a recipe for this model, or leave --recipe out")
            raise UserError(what, where=self.written[error.where], fix=fix) from None


def resolve(recipe: Path | None, given: dict[str, Any]) -> Request:
    """Merge a recipe with the options of the command line; None means "not given". A max_prompt that is not on the command line is lowered
    where max_tokens is, with a note. Raises UserError for unknown keys and bad values."""
    written = _read(recipe) if recipe else {}
    chosen = {key: value for key, value in given.items() if value is not None}
    too_long = "max_prompt" not in chosen and _leaves_no_room(written.get("max_prompt"), chosen.get("max_tokens"))
    kept = {key: value for key, value in written.items() if not (too_long and key == "max_prompt")}
    options = _validate({**kept, **chosen}, f"{recipe}" if recipe else "options")
    from_recipe = recipe is not None and "skip" not in chosen and options.skip is not None
    recipe_skip = (recipe.name, options.skip) if from_recipe else None
    notes = ()
    if options.max_prompt is None and (too_long or _leaves_no_room(DEFAULT_MAX_PROMPT, options.max_tokens)):
        before = f"{recipe.name}'s {written['max_prompt']}" if too_long else f"the default of {DEFAULT_MAX_PROMPT}"
        lowered = f"max_prompt is {options.limits.max_prompt}, as {before} leaves no room for an answer"
        notes = (f"{lowered} in {options.max_tokens} tokens; --max-prompt sets another",)
    own = {f"--{key.replace('_', '-')}": recipe for key in written if key not in chosen}
    return Request(options, options.skip if "skip" in chosen else None, recipe_skip, notes, own)


def _leaves_no_room(max_prompt: Any, max_tokens: Any) -> bool:
    return type(max_prompt) is type(max_tokens) is int and max_prompt >= max_tokens


def _read(path: Path) -> dict[str, Any]:
    import yaml

    class Strict(yaml.SafeLoader):
        """Refuses aliases, a few lines of which can expand to more than the memory holds, and keys that are there twice."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not allowed")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            lines: dict[str, int] = {}
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                name, line = _as_option(key.value), key.start_mark.line + 1
                if name in lines:
                    what = f"{name} is there twice, in lines {lines[name]} and {line}"
                    raise UserError(what, where=path, fix="keep one of the two lines")
                lines[name] = line
            return {_as_option(key): value for key, value in super().construct_mapping(node, deep).items()}

    try:
        with open(require_file(path), "rb") as file:
            text = file.read(LONGEST_RECIPE + 1)
        if len(text) > LONGEST_RECIPE:
            raise ValueError(f"longer than {LONGEST_RECIPE} bytes")
        content = yaml.load(text.decode("utf-8"), Strict)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())[:200]
        what = f"the recipe is not a YAML file ({first})"
        raise UserError(what, where=path, fix="write key: value lines, like the shipped recipes") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        what = "the recipe is not a table of key: value lines"
        raise UserError(what, where=path, fix="write key: value lines, like the shipped recipes")
    return content


def _as_option(key: Any) -> Any:
    """A key as the field's name: max-tokens, as on the command line, is max_tokens."""
    return key.replace("-", "_") if isinstance(key, str) else key


def _validate(values: dict[str, Any], where: str) -> BuildOptions:
    try:
        options = BuildOptions.model_validate(values)
        _ = options.limits
        return options
    except ValidationError as error:
        raise refusal(error, BuildOptions, "option", where) from None
