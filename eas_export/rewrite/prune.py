"""Cut the skipped attentions out of a checkpoint."""

from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..plan import SkipPlan


def prune(checkpoint: Checkpoint, plan: SkipPlan) -> Checkpoint:
    """The checkpoint without what the plan makes useless: q, k, v, o and the kept-layer adapter of skipped layers, and the
    skipped-layer adapter of kept ones. Nothing is read."""
    gone = [f"layers.{i}.{part}." for i in plan.skipped for part in ("attention", "kept_adapter")]
    gone += [f"layers.{i}.skipped_adapter." for i in plan.kept]
    tensors = {name: t for name, t in checkpoint.tensors.items() if not name.startswith(tuple(gone))}
    return replace(checkpoint, tensors=tensors)
