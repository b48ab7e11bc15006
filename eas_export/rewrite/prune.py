"""Cut the skipped attentions out of a checkpoint."""

from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..errors import UserError
from ..plan import SkipPlan


def prune(checkpoint: Checkpoint, plan: SkipPlan) -> Checkpoint:
    """The checkpoint without what the plan makes useless: q, k, v, o and the kept-layer adapter of skipped layers, and the
    skipped-layer adapter of kept ones. Nothing is read. Raises UserError where the plan needs what the checkpoint lacks."""
    _require_complete(checkpoint, plan)
    gone = [f"layers.{i}.{part}." for i in plan.skipped for part in ("attention", "kept_adapter")]
    gone += [f"layers.{i}.skipped_adapter." for i in plan.kept]
    tensors = {name: t for name, t in checkpoint.tensors.items() if not name.startswith(tuple(gone))}
    return replace(checkpoint, tensors=tensors)


def _require_complete(checkpoint: Checkpoint, plan: SkipPlan) -> None:
    """A checkpoint may lack what its own skip list makes useless; another plan may need it."""
    attention = [f"attention.{part}.weight" for part in "qkvo"] + [f"kept_adapter.{part}" for part in "AaBbDdEe"]
    wanted = [(i, name) for i in plan.kept for name in attention]
    wanted += [(i, f"skipped_adapter.{part}") for i in plan.skipped for part in "AaCcBbDdEe"]
    lost = {name: i for i, part in wanted if (name := f"layers.{i}.{part}") not in checkpoint.tensors}
    if not lost:
        return
    kept = sorted({i for i in lost.values() if i not in plan.skipped})
    first, more = next(iter(lost)), len(lost) - 1
    own = f"keep the checkpoint's own list ({checkpoint.evidence.origin}: {checkpoint.evidence.text})"
    raise UserError(
        f"the checkpoint lacks {first} and {more} more, which layers {', '.join(map(str, sorted(set(lost.values()))))} need "
        f"to be {'kept' if kept else 'skipped'}",
        where=plan.origin,
        fix=f"pass --base-weights DIR, the model it was trained from, or {own}" if kept else own,
    )
