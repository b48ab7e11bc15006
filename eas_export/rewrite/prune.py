"""Cut the skipped attentions out of a checkpoint."""

from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..config import ModelConfig
from ..plan import SkipPlan
from ..registry import lookup

# Kind of network (a config's) -> (config, plan) -> how the names begin of the tensors that go
USELESS = {
    "decoder": ".rewrite.prune:useless_in_decoder",
    "cross-encoder": ".rewrite.cross_encoder:useless_in_cross_encoder",
}


def prune(checkpoint: Checkpoint, plan: SkipPlan) -> Checkpoint:
    """The checkpoint without what the plan makes useless: the attentions that are skipped with the adapters before them, and the adapters
    that would stand for those that are kept. Nothing is read."""
    gone = lookup(USELESS, checkpoint.config.kind, "kind of network", "config")(checkpoint.config, plan)
    tensors = {name: t for name, t in checkpoint.tensors.items() if not name.startswith(tuple(gone))}
    return replace(checkpoint, tensors=tensors)


def useless_in_decoder(config: ModelConfig, plan: SkipPlan) -> list[str]:
    """q, k, v, o and the kept-layer adapter of skipped layers, and the skipped-layer adapter of kept ones."""
    gone = [f"layers.{i}.{part}." for i in plan.skipped for part in ("attention", "kept_adapter")]
    return gone + [f"layers.{i}.skipped_adapter." for i in plan.kept]
