"""Build options: each is a field, which declares everything about it. No torch here.

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

FOLD_MODES = ".networks.graphs:every_fold_mode"
PrecisionName = Annotated[str, RowOf(".core.precision:PRECISIONS")]
FoldName = Annotated[str, RowOf(FOLD_MODES)]
BackendName = Annotated[str, RowOf(".backends:for_bundles")]
EngineWeights = Literal["bound", "embedded"]
Opset = Literal[24, 21]

DEFAULT_OPSET = 24  # of recorded graphs, before any lowering
DEFAULT_MAX_BATCH = 8  # in fold modes that batch prompts
DEFAULT_MAX_PROMPT = 1024  # where max_tokens leaves room for an answer to it

WEIGHTS, GRAPHS, ENGINES = ("weights",), ("graphs",), ("engines",)  # the files that an option may decide
BOTH = WEIGHTS + GRAPHS


@dataclass(frozen=True)
class Option:
    """What an option declares beside its type, its choices and its default.

    help      for --help, which adds the default, and the meaning of choices whose rows have one
    decides   the files that it changes: WEIGHTS, GRAPHS, BOTH, ENGINES (which depend on their graph and their Target alone), or ()
    shown_by  the part of a file's key that holds its value: "plan", "config", a graph's "spec", "limits", or the engines' "targets"; empty:
              the key has to hold the value itself
    by_default  what None stands for, for --help
    metavar   placeholder of the value in --help
    of_checkpoint  a fact of the checkpoint that its files may lack: also a field of families/contract.Sources; families that take it name it
                   in `takes` and put it into the config
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
    """Field -> what it declares."""
    return {name: field.json_schema_extra["option"] for name, field in record.model_fields.items()}


SKIP = "Attentions to skip, by index (a decoder's are its layers): 20-31,5 or none."
TEMPERATURE = "Router temperature, to override the checkpoint's or supply it."
SCALE = "Adapter scale, to override the checkpoint's or supply it."
TEXT_HEADS = "METER: heads of the text encoder, if the checkpoint lacks them."
TEXT_LENGTH = "METER: tokens that texts are padded to, if the checkpoint lacks them (VQA, NLVR2: 50, Flickr30K: 40)."
CROSS_HEADS = "METER: heads of the cross-modal layers, if the checkpoint lacks them (published: 12)."
READING = (
    "METER: sites 18-23 are the image self-attentions a second time (published), or image cross-attentions (paper)."
)
ADAPTERS = "drop: leave adapters out, as a latency baseline; its answers mean nothing."
BACKENDS = "Backend to build for; repeat for several. TensorRT engines become part of the bundle."
GPUS = "Compute capabilities of the GPUs that TensorRT-RTX engines are built for."
COPIES = "bound: the engines share one copy of the weights; embedded: each has its own."
OPSET = "ONNX opset of the graphs; 21: for runtimes without the newer operators."


class BuildOptions(Record):
    """What decides a bundle beside the checkpoint. The keys are the recipe's and, with dashes, the command line's."""

    skip: str | None = option(None, SKIP, BOTH, "plan", metavar="LIST", by_default="as the checkpoint records")
    router_temperature: Annotated[FiniteFloat, Field(gt=0)] | None = option(
        None, TEMPERATURE, WEIGHTS, "config", metavar="T", of_checkpoint=True
    )
    adapter_scale: FiniteFloat | None = option(None, SCALE, WEIGHTS, "config", metavar="S", of_checkpoint=True)
    text_heads: Annotated[PositiveInt, Field(le=1 << 10)] | None = option(
        None, TEXT_HEADS, BOTH, "config", metavar="N", of_checkpoint=True
    )
    text_length: Annotated[PositiveInt, Field(le=1 << 16)] | None = option(
        None, TEXT_LENGTH, BOTH, "config", metavar="N", of_checkpoint=True
    )
    cross_heads: Annotated[PositiveInt, Field(le=1 << 10)] | None = option(
        None, CROSS_HEADS, BOTH, "config", metavar="N", of_checkpoint=True
    )
    image_cross_reading: Literal["published", "paper"] | None = option(
        None, READING, BOTH, "config", by_default="published", of_checkpoint=True
    )
    precision: PrecisionName = option("fp32", "Precision of weights, activations and KV caches.", BOTH, "spec")
    fold: FoldName | None = option(
        None, "How adapters are folded.", GRAPHS, "spec", by_default="the first that the model supports"
    )
    adapters: Literal["keep", "drop"] = option("keep", ADAPTERS, BOTH, "config")
    max_batch: Annotated[PositiveInt, Field(le=1 << 16)] | None = option(
        None, "Maximum rows per batch.", GRAPHS, "limits", by_default=f"1 with --fold weights, else {DEFAULT_MAX_BATCH}"
    )
    max_images: Annotated[PositiveInt, Field(le=1 << 10)] = option(1, "Maximum images per prompt.", GRAPHS, "limits")
    max_prompt: PositiveInt | None = option(
        None,
        "Maximum tokens per prompt.",
        GRAPHS,
        "limits",
        by_default=f"{DEFAULT_MAX_PROMPT}, or half of --max-tokens where that is too many",
    )
    max_tokens: Annotated[int, Field(gt=1, le=1 << 17)] = option(2048, "Maximum tokens of prompt and answer.", BOTH, "")
    backend: tuple[BackendName, ...] = option(("onnxruntime",), BACKENDS, ENGINES, "targets")
    compute_capability: str | None = option(None, GPUS, ENGINES, "targets", metavar="LIST", by_default="80,86,89,120")
    engine_weights: EngineWeights = option("bound", COPIES, ENGINES, "targets")
    opset: Opset = option(DEFAULT_OPSET, OPSET, GRAPHS, "")

    @field_validator("skip", mode="before")
    @classmethod
    def _as_text(cls, skip: Any) -> Any:
        """YAML reads `skip: 5` as a number and `skip: [5, 6]` as a list."""
        layers = skip if isinstance(skip, list) else [skip]
        plain = all(type(layer) is int for layer in layers)
        return ",".join(map(str, layers)) if plain else skip

    @field_validator("backend", mode="before")
    @classmethod
    def _as_list(cls, backend: Any) -> Any:
        """A single name becomes a list; duplicates are dropped."""
        names = [backend] if isinstance(backend, str) else backend
        plain = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        return tuple(dict.fromkeys(names)) if plain else names

    @field_validator("compute_capability", mode="before")
    @classmethod
    def _as_capabilities(cls, value: Any) -> Any:
        """YAML reads `compute_capability: 86` as a number and `[86, 120]` as a list."""
        listed = value if isinstance(value, list) else [value]
        plain = listed and all(type(item) in (int, float, str) for item in listed)
        return ",".join(map(str, listed)) if plain else value

    @property
    def settings(self) -> dict[str, Any]:
        """The options that are facts of the checkpoint, for families/contract.Sources."""
        return {name: getattr(self, name) for name, option in options_of(type(self)).items() if option.of_checkpoint}

    def settled(
        self, fold_modes: Sequence[str], unused: Sequence[str] = (), one_prompt: Sequence[str] = ()
    ) -> "BuildOptions":
        """The options with a fold mode, a max_batch and a max_prompt.

        fold_modes  of the network, the default first; one_prompt: those that take one prompt at a time
        unused      limits that do not apply to it

        Raises UserError for a fold mode that it does not have, for batches that it cannot take, and for limits that were set but do not apply.
        """
        for name in unused:
            if name in self.model_fields_set:
                option = f"--{name.replace('_', '-')}"
                raise UserError(
                    f"{option} does not apply to this kind of network", where=option, fix=f"leave {option} out"
                )
        if self.fold is not None and self.fold not in fold_modes:
            kind = "a model without adapters" if "none" in fold_modes else "this kind of network"
            what = f"{kind} has no fold mode {self.fold}"
            raise UserError(what, where="--fold", fix=f"leave --fold out, or choose {' or '.join(fold_modes)}")
        fold = self.fold or fold_modes[0]
        most = self.max_batch or (1 if fold in one_prompt else DEFAULT_MAX_BATCH)
        if fold in one_prompt and most > 1:
            raise UserError(
                f"fold mode {fold} takes one prompt at a time, but max_batch is {most}",
                where="--max-batch",
                fix="leave it at 1, or build with --fold lowrank",
            )
        return self.model_copy(update={"fold": fold, "max_batch": most, "max_prompt": self.limits.max_prompt})

    @property
    def limits(self) -> Limits:
        return Limits(
            max_batch=self.max_batch or DEFAULT_MAX_BATCH,
            max_images=self.max_images,
            max_prompt=self.max_prompt
            or (DEFAULT_MAX_PROMPT if DEFAULT_MAX_PROMPT < self.max_tokens else self.max_tokens // 2),
            max_tokens=self.max_tokens,
        )
