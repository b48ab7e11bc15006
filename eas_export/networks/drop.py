"""Leave the adapters out of a checkpoint: the floor that "zero extra latency" is measured against, not a model that anybody trained."""

from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..core.errors import UserError
from . import network_part

NOTE = "its adapters were left out (--adapters drop): time can be measured against it, its answers mean nothing"


def drop_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as if it had none. Nothing is read. Raises UserError for a kind of network that is nothing without them."""
    without = network_part(checkpoint.config, "without_adapters")
    if without is None:
        what = f"a {checkpoint.config.kind} cannot do without its adapters"
        raise UserError(what, where="--adapters drop", fix="leave it out")
    config, marks = without(checkpoint.config)
    tensors = {name: t for name, t in checkpoint.tensors.items() if not any(mark in name for mark in marks)}
    return replace(checkpoint, config=config, tensors=tensors, notes=(*checkpoint.notes, NOTE))
