"""Build options from the command line, a recipe, or both. A recipe is a YAML file with the same keys; the command line takes precedence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.errors import UserError
from ..core.options import BuildOptions
from ..core.record import refusal
from ..system.files import require_file

LONGEST_RECIPE = 1 << 16  # bytes; a recipe is a few lines


@dataclass(frozen=True)
class Request:
    """Resolved options, and where the skip list comes from (see plan.choose_plan)."""

    options: BuildOptions
    given_skip: str | None
    recipe_skip: tuple[str, str] | None


def resolve(recipe: Path | None, given: dict[str, Any]) -> Request:
    """Merge a recipe with the options of the command line; None means "not given". Raises UserError for unknown keys and bad values."""
    written = _read(recipe) if recipe else {}
    chosen = {key: value for key, value in given.items() if value is not None}
    options = _validate({**written, **chosen}, f"{recipe}" if recipe else "options")
    from_recipe = recipe is not None and "skip" not in chosen and options.skip is not None
    recipe_skip = (recipe.name, options.skip) if from_recipe else None
    return Request(options, options.skip if "skip" in chosen else None, recipe_skip)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    class WithoutAliases(yaml.SafeLoader):
        """Refuses aliases: a few lines of them can expand to more than the memory holds."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not allowed")
            return super().compose_node(parent, index)

    try:
        with open(require_file(path), "rb") as file:
            text = file.read(LONGEST_RECIPE + 1)
        if len(text) > LONGEST_RECIPE:
            raise ValueError(f"longer than {LONGEST_RECIPE} bytes")
        content = yaml.load(text.decode("utf-8"), WithoutAliases)
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


def _validate(values: dict[str, Any], where: str) -> BuildOptions:
    try:
        options = BuildOptions.model_validate(values)
        _ = options.limits
        return options
    except ValidationError as error:
        raise refusal(error, BuildOptions, "option", where) from None
