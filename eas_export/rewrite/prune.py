"""Cut the skipped attentions out of a checkpoint."""

from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..config import ModelConfig
from ..errors import UserError
from ..plan import SkipPlan
from ..registry import lookup

# Kind of network (a config's) -> (config, plan) -> how the names begin of the tensors that go
USELESS = {
    "decoder": ".rewrite.prune:useless_in_decoder",
    "cross-encoder": ".rewrite.cross_encoder:useless_in_cross_encoder",
}


def prune(checkpoint: Checkpoint, plan: SkipPlan) -> Checkpoint:
    """The checkpoint without what the plan makes useless: the attentions that are skipped with the adapters before them, and the adapters
    that would stand for those that are kept. Nothing is read. Raises UserError where the plan needs what the checkpoint lacks."""
    useless = lookup(USELESS, checkpoint.config.kind, "kind of network", "config")
    needed = useless(
        checkpoint.config, plan.model_copy(update={"skipped": plan.kept})
    )  # what the opposite plan would drop
    _require_complete(checkpoint, plan, needed)
    gone = useless(checkpoint.config, plan)
    tensors = {name: t for name, t in checkpoint.tensors.items() if not name.startswith(tuple(gone))}
    return replace(checkpoint, tensors=tensors)


def _require_complete(checkpoint: Checkpoint, plan: SkipPlan, needed: list[str]) -> None:
    """Fine-tuning may have left out what its own skip list makes useless, and another plan needs it."""
    lost = [prefix for prefix in needed if not any(name.startswith(prefix) for name in checkpoint.tensors)]
    if lost:
        more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
        recorded = checkpoint.evidence.text
        own = f"skip what it was trained with, {recorded}" if recorded else "skip other attentions"
        raise UserError(
            f"the checkpoint lacks {', '.join(f'{prefix}*' for prefix in lost[:4])}{more}, which this skip list needs",
            where=plan.origin,
            fix=f"{own}, or pass --base-weights DIR, the original model, for attentions that fine-tuning has removed",
        )


def useless_in_decoder(config: ModelConfig, plan: SkipPlan) -> list[str]:
    """q, k, v, o and the kept-layer adapter of skipped layers, and the skipped-layer adapter of kept ones."""
    if config.kept_adapter is None:
        return [f"layers.{i}.attention." for i in plan.skipped]
    gone = [f"layers.{i}.{part}." for i in plan.skipped for part in ("attention", "kept_adapter")]
    return gone + [f"layers.{i}.skipped_adapter." for i in plan.kept]
