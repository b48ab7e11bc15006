"""Build options: from the command line, from a recipe, or both. A recipe is a YAML file with the same keys; the command line wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from .config import Limits, Record
from .errors import UserError
from .files import require_file
from .validation import refusal

PrecisionName = Literal["fp32", "fp16", "bf16"]
FoldName = Literal["weights", "lowrank", "offline", "none"]
BackendName = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
EngineWeights = Literal["bound", "embedded"]
Opset = Literal[24, 21]
LONGEST_RECIPE = 1 << 16  # bytes; a recipe is a few lines
DEFAULT_OPSET = 24  # what graphs are recorded in
DEFAULT_MAX_BATCH = 8  # where adapters are not folded prompt by prompt
SETTINGS = ("router_temperature", "adapter_scale", "text_heads", "image_cross_reading")  # what checkpoints may not say


class BuildOptions(Record):
    """What decides a bundle beside the checkpoint. The keys are the recipe's and, with dashes, the command line's.

    skip    text of --skip ("20-31,5", "none"); None: what the checkpoint says
    router_temperature, adapter_scale  None: what the checkpoint says
    text_heads           of METER's text encoder, where the checkpoint cannot tell
    image_cross_reading  what METER's sites 18-23 are: as published image self-attentions once more, or image cross-attentions (paper)
    fold    weights: one prompt at a time, adapters folded into the weights; lowrank: any batch, adapters beside shared weights;
            offline: folded once for all prompts; none: where there are no adapters. None: the first that there is for the kind of network
    adapters  drop: leave them out, to measure time against
    max_batch, max_images, max_prompt, max_tokens  see config.Limits; max_batch None: 1 for weights, else 8
    backend  what the bundle is for, one or several: TensorRT's engines are built into it
    compute_capability  of the GPUs that TensorRT-RTX's engines are for: "86,120" or "8.6,12.0"; None: see backends/tensorrt_rtx.py
    engine_weights      bound: inputs of the engines, which share one copy on the device; embedded: a copy in each engine
    opset   of the graphs; 21: for consumers that do not know newer operators
    """

    skip: str | None = None
    router_temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    adapter_scale: float | None = Field(default=None, allow_inf_nan=False)
    text_heads: int | None = Field(default=None, gt=0, le=1 << 10)
    image_cross_reading: Literal["published", "paper"] | None = None
    precision: PrecisionName = "fp32"
    fold: FoldName | None = None
    adapters: Literal["keep", "drop"] = "keep"
    max_batch: int | None = Field(default=None, gt=0, le=1 << 16)
    max_images: int = Field(default=1, gt=0, le=1 << 10)
    max_prompt: int = Field(default=1024, gt=0)
    max_tokens: int = Field(default=2048, gt=1, le=1 << 17)
    backend: tuple[BackendName, ...] = ("onnxruntime",)
    compute_capability: str | None = None
    engine_weights: EngineWeights = "bound"
    opset: Opset = DEFAULT_OPSET

    @field_validator("skip", mode="before")
    @classmethod
    def _as_text(cls, skip: Any) -> Any:
        """YAML reads `skip: 5` as a number and `skip: [5, 6]` as a list."""
        layers = skip if isinstance(skip, list) else [skip]
        plain = layers and all(type(layer) is int for layer in layers)
        return ",".join(map(str, layers)) if plain else skip

    @field_validator("backend", mode="before")
    @classmethod
    def _as_list(cls, backend: Any) -> Any:
        """One name alone is a list of one; each name counts once."""
        names = [backend] if isinstance(backend, str) else backend
        plain = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        return tuple(dict.fromkeys(names)) if plain else names

    @field_validator("compute_capability", mode="before")
    @classmethod
    def _as_capabilities(cls, value: Any) -> Any:
        """YAML reads `compute_capability: 86` as a number and `[86, 120]` as a list."""
        listed = value if isinstance(value, list) else [value]
        plain = listed and all(type(each) in (int, float, str) for each in listed)
        return ",".join(map(str, listed)) if plain else value

    @property
    def settings(self) -> dict[str, Any]:
        """What is said of the checkpoint beside its files, for family.Sources."""
        return {name: getattr(self, name) for name in SETTINGS}

    def settled(self, fold_modes: Sequence[str], unused: Sequence[str] = ()) -> "BuildOptions":
        """The options with a fold mode. Raises UserError for one that is not among the network's, for batches that it cannot take, and
        for limits that were given and are unused."""
        for name in unused:
            if name in self.model_fields_set:
                option = f"--{name.replace('_', '-')}"
                raise UserError("this kind of network has no use for it", where=option, fix="leave it out")
        if self.fold is not None and self.fold not in fold_modes:
            kind = "a model without adapters" if self.adapters == "drop" else "this kind of network"
            what = f"{kind} does not fold that way: {self.fold}"
            raise UserError(what, where="--fold", fix=f"leave it out, or choose {' or '.join(fold_modes)}")
        options = self.model_copy(update={"fold": self.fold or fold_modes[0]})
        if options.fold == "weights" and options.limits.max_batch > 1:
            raise UserError(
                f"fold mode weights serves one prompt at a time, max_batch is {options.max_batch}",
                where="--max-batch",
                fix="leave it at 1, or build with --fold lowrank",
            )
        return options

    @property
    def limits(self) -> Limits:
        return Limits(
            max_batch=self.max_batch or (1 if self.fold == "weights" else DEFAULT_MAX_BATCH),
            max_images=self.max_images,
            max_prompt=self.max_prompt,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True)
class Request:
    """Resolved options and who asked for the skips (see plan.choose_plan)."""

    options: BuildOptions
    given_skip: str | None
    recipe_skip: tuple[str, str] | None


def resolve(recipe: Path | None, given: dict[str, Any]) -> Request:
    """Merge a recipe with the options given beside it; None is "not given". Raises UserError for unknown keys and bad values."""
    written = _read(recipe) if recipe else {}
    chosen = {key: value for key, value in given.items() if value is not None}
    options = _validate({**written, **chosen}, f"{recipe}" if recipe else "options")
    from_recipe = recipe is not None and "skip" not in chosen and options.skip is not None
    recipe_skip = (recipe.name, options.skip) if from_recipe else None
    return Request(options, options.skip if "skip" in chosen else None, recipe_skip)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    class WithoutAliases(yaml.SafeLoader):
        """A few lines of aliases can stand for more than a memory holds."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has aliases")
            return super().compose_node(parent, index)

    try:
        with open(require_file(path), "rb") as file:
            text = file.read(LONGEST_RECIPE + 1)
        if len(text) > LONGEST_RECIPE:
            raise ValueError(f"it is longer than {LONGEST_RECIPE} bytes")
        content = yaml.load(text.decode("utf-8"), WithoutAliases)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"it is not a YAML file ({first})", where=path, fix="write key: value lines, like the shipped recipes"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(
            "a recipe is a table of key: value lines", where=path, fix="look at the shipped recipes in recipes/"
        )
    return content


def _validate(values: dict[str, Any], where: str) -> BuildOptions:
    try:
        options = BuildOptions.model_validate(values)
        _ = options.limits
        return options
    except ValidationError as error:
        raise refusal(error, BuildOptions, "option", where) from None
