"""What decides a bundle beside its checkpoint: an option is a field, and the field says everything of it. No torch here.

The recipe's keys, the API's keywords, the command line's options (cli/build_options.py) and the keys of files (build/keys.py) are made
from the fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, PositiveInt, field_validator

from .choices import RowOf
from .errors import UserError
from .limits import Limits
from .record import Record
from .registry import load

FOLD_MODES = ".networks.graphs:every_fold_mode"
PrecisionName = Annotated[str, RowOf(".core.precision:PRECISIONS")]
FoldName = Annotated[str, RowOf(FOLD_MODES)]
BackendName = Annotated[str, RowOf(".backends:for_bundles")]
EngineWeights = Literal["bound", "embedded"]
Opset = Literal[24, 21]

DEFAULT_OPSET = 24  # what graphs are recorded in
DEFAULT_MAX_BATCH = 8  # where adapters are not folded prompt by prompt

WEIGHTS, GRAPHS, ENGINES = ("weights",), ("graphs",), ("engines",)  # what an option may decide
BOTH = WEIGHTS + GRAPHS


@dataclass(frozen=True)
class Option:
    """What there is to say of an option beside its type, its choices and its default.

    help      for --help, which adds the default, and what choices mean where their rows say it
    decides   WEIGHTS, GRAPHS, BOTH, ENGINES (which whatever changes graphs changes, too, and which see their Target alone), or ()
    shown_by  what shows its value in a key: the "plan", the "config", a graph's "spec", the "limits", or the engines' "targets"; empty
              where the key has to hold the value itself
    by_default  what None comes to, in words
    metavar   what --help calls its value
    of_checkpoint  it says something of the checkpoint that its files may not say: then it is a field of families/contract.Sources, too, and
                   the families that take it name it in `takes` and put it into the config
    """

    help: str
    decides: tuple[str, ...]
    shown_by: Literal["plan", "config", "spec", "limits", "targets", ""]
    by_default: str = ""
    metavar: str | None = None
    of_checkpoint: bool = False


def option(default: Any, help: str, decides: tuple[str, ...], shown_by: str, **more: Any) -> Any:
    """A field of BuildOptions. more: fields of Option"""
    return Field(default, json_schema_extra={"option": Option(help, decides, shown_by, **more)})


def options_of(record: "type[BuildOptions]") -> Mapping[str, Option]:
    """Field -> what it says of itself."""
    return {name: field.json_schema_extra["option"] for name, field in record.model_fields.items()}


ATTENTIONS = "Layers whose attention is skipped: 20-31,5 or none."
READING = "METER: sites 18-23 are image self-attentions again (published), or image cross-attentions (paper)."
TARGETS = "What the bundle is for; again for each. TensorRT's engines are built into it."
GPUS = "GPUs that TensorRT-RTX's engines are for: 86,120."


class BuildOptions(Record):
    """What decides a bundle beside the checkpoint. The keys are the recipe's and, with dashes, the command line's."""

    skip: str | None = option(None, ATTENTIONS, BOTH, "plan", metavar="LAYERS", by_default="what the checkpoint says")
    router_temperature: Annotated[FiniteFloat, Field(gt=0)] | None = option(
        None, "Override or supply the router's temperature.", WEIGHTS, "config", metavar="T", of_checkpoint=True
    )
    adapter_scale: FiniteFloat | None = option(
        None, "Override or supply the adapters' scale.", WEIGHTS, "config", metavar="S", of_checkpoint=True
    )
    text_heads: Annotated[PositiveInt, Field(le=1 << 10)] | None = option(
        None,
        "METER: heads of the text encoder, where the file cannot tell.",
        BOTH,
        "config",
        metavar="N",
        of_checkpoint=True,
    )
    image_cross_reading: Literal["published", "paper"] | None = option(
        None, READING, BOTH, "config", of_checkpoint=True
    )
    precision: PrecisionName = option("fp32", "Of weights, activations and caches.", BOTH, "spec")
    fold: FoldName | None = option(None, "Fold mode.", GRAPHS, "spec", by_default="the first that the model can have")
    adapters: Literal["keep", "drop"] = option("keep", "drop: leave them out, to measure time against.", BOTH, "config")
    max_batch: Annotated[PositiveInt, Field(le=1 << 16)] | None = option(
        None, "Rows.", GRAPHS, "limits", by_default=f"1 for weights, else {DEFAULT_MAX_BATCH}"
    )
    max_images: Annotated[PositiveInt, Field(le=1 << 10)] = option(1, "Images of one prompt.", GRAPHS, "limits")
    max_prompt: PositiveInt = option(1024, "Tokens of one prompt.", GRAPHS, "limits")
    max_tokens: Annotated[int, Field(gt=1, le=1 << 17)] = option(2048, "Tokens of a prompt and its answer.", BOTH, "")
    backend: tuple[BackendName, ...] = option(("onnxruntime",), TARGETS, ENGINES, "targets")
    compute_capability: str | None = option(None, GPUS, ENGINES, "targets", metavar="LIST", by_default="80,86,89,120")
    engine_weights: EngineWeights = option("bound", "One copy for all engines, or one in each.", ENGINES, "targets")
    opset: Opset = option(
        DEFAULT_OPSET, "Of the graphs; 21: for consumers that do not know newer operators.", GRAPHS, ""
    )

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
        """What is said of the checkpoint beside its files, for families/contract.Sources."""
        return {name: getattr(self, name) for name, option in options_of(type(self)).items() if option.of_checkpoint}

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
        if options._one_prompt and options.limits.max_batch > 1:
            raise UserError(
                f"fold mode {options.fold} serves one prompt at a time, max_batch is {options.max_batch}",
                where="--max-batch",
                fix="leave it at 1, or build with --fold lowrank",
            )
        return options

    @property
    def limits(self) -> Limits:
        return Limits(
            max_batch=self.max_batch or (1 if self._one_prompt else DEFAULT_MAX_BATCH),
            max_images=self.max_images,
            max_prompt=self.max_prompt,
            max_tokens=self.max_tokens,
        )

    @property
    def _one_prompt(self) -> bool:
        return self.fold is not None and load(FOLD_MODES)()[self.fold].one_prompt
