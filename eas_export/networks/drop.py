"""Leave the adapters out of a checkpoint: the baseline for the latency that adapters add. Nobody trained such a model."""

from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..core.errors import UserError
from ..core.plan import SkipEvidence
from . import network_part

NOTE = "the adapters were left out (--adapters drop): the model is a latency baseline, its answers mean nothing"


def drop_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without adapters; the same one where it has none. Nothing is read. Raises UserError for a kind of network that needs them."""
    without = network_part(checkpoint.config, "without_adapters")
    if without is None:
        what = f"a {checkpoint.config.kind} cannot be built without its adapters"
        raise UserError(what, where="--adapters drop", fix="leave it out")
    config, parts, keeps_all = without(checkpoint.config)
    if config == checkpoint.config:
        return checkpoint
    tensors = {name: t for name, t in checkpoint.tensors.items() if not any(part in name for part in parts)}
    evidence = SkipEvidence(text="none", origin="--adapters drop") if keeps_all else checkpoint.evidence
    return replace(checkpoint, config=config, tensors=tensors, evidence=evidence, notes=(*checkpoint.notes, NOTE))
