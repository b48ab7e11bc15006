"""Leave the adapters out of a checkpoint: the floor that "zero extra latency" is measured against, not a model that anybody trained."""

from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..config import ModelConfig
from ..errors import UserError
from ..registry import lookup

NOTE = "its adapters were left out (--adapters drop): time can be measured against it, its answers mean nothing"

# Kind of network (a config's) -> config -> the config without adapters, and what marks their tensors' names
WITHOUT = {
    "decoder": ".rewrite.drop:decoder_without_adapters",
}


def drop_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as if it had none. Nothing is read. Raises UserError for a kind of network that is nothing without them."""
    kind = checkpoint.config.kind
    if kind not in WITHOUT:
        what = f"a {kind} cannot do without its adapters"
        raise UserError(what, where="--adapters drop", fix="leave it out")
    config, marks = lookup(WITHOUT, kind, "kind of network", "config")(checkpoint.config)
    tensors = {name: t for name, t in checkpoint.tensors.items() if not any(mark in name for mark in marks)}
    return replace(checkpoint, config=config, tensors=tensors, notes=(*checkpoint.notes, NOTE))


def decoder_without_adapters(config: ModelConfig) -> tuple[ModelConfig, tuple[str, ...]]:
    vision = config.vision.model_copy(update={"adapter": None})
    bare = config.model_copy(update={"kept_adapter": None, "skipped_adapter": None, "vision": vision})
    return bare, (".kept_adapter.", ".skipped_adapter.", ".adapter.")
