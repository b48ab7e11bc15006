"""What decides a bundle beside its checkpoint, an option a field. No torch here."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from .errors import UserError
from .limits import Limits
from .record import Record

PrecisionName = Literal["fp32", "fp16", "bf16"]


FoldName = Literal["weights", "lowrank", "offline", "none"]


BackendName = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]


EngineWeights = Literal["bound", "embedded"]


Opset = Literal[24, 21]


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
    max_batch, max_images, max_prompt, max_tokens  see core/limits.Limits; max_batch None: 1 for weights, else 8
    backend  what the bundle is for, one or several: TensorRT's engines are built into it
    compute_capability  of the GPUs that TensorRT-RTX's engines are for: "86,120" or "8.6,12.0"; None: see backends/tensorrt/tensorrt_rtx.py
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
        """What is said of the checkpoint beside its files, for families/contract.Sources."""
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
