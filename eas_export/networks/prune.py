"""Remove what is skipped, attentions or whole layers, from a checkpoint."""

import re
from dataclasses import replace

from ..checkpoint.checkpoint import Checkpoint
from ..core.errors import UserError
from ..core.plan import SkipPlan
from . import network_part


def prune(checkpoint: Checkpoint, plan: SkipPlan) -> Checkpoint:
    """The checkpoint without the tensors that the plan makes useless: skipped attentions with the adapters before them, and the adapters that
    would replace kept attentions. Nothing is read. Raises UserError where the checkpoint lacks tensors that the plan needs."""
    config, useless = checkpoint.config, network_part(checkpoint.config, "useless")
    gone = config.attentions(plan.skipped)
    left = tuple(site for site in plan.kept if gone.isdisjoint(config.attentions([site])))
    opposite = plan.model_copy(update={"skipped": left})  # it would drop what this plan needs
    names = tuple(useless(config, plan))
    _require_complete(checkpoint, plan, [name for name in useless(config, opposite) if name not in names])
    return replace(checkpoint, tensors={n: t for n, t in checkpoint.tensors.items() if not n.startswith(names)})


def _require_complete(checkpoint: Checkpoint, plan: SkipPlan, needed: list[str]) -> None:
    """Fine-tuning may have removed tensors that its own skip list makes useless and another plan needs."""
    missing = [prefix for prefix in needed if not any(name.startswith(prefix) for name in checkpoint.tensors)]
    if missing:
        keys = ", ".join(_published(checkpoint, prefix) for prefix in missing[:4])
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        recorded = checkpoint.evidence.text
        listed = (recorded or "").strip("[]").replace(" ", "")
        fix = f"pass --skip {listed}, as it was trained" if listed else "skip others"
        if any("attention." in prefix for prefix in missing):
            fix += ", or pass --base-weights DIR, the original model, for attentions that fine-tuning has removed"
        what = f"the checkpoint lacks {keys}{more}, which this skip list needs"
        raise UserError(what, where=plan.origin, fix=fix)


def _published(checkpoint: Checkpoint, prefix: str) -> str:
    """The published key of a tensor under our prefix, modelled on another block's key; the prefix where no block has one."""
    number = re.search(r"\d+", prefix)[0]
    pattern = re.compile(re.escape(prefix).replace(number, r"(\d+)", 1))
    for name, tensor in checkpoint.tensors.items():
        if (match := pattern.match(name)) and ": " in tensor.source:
            key = tensor.source.split(": ")[1]
            return key.replace(f".{match[1]}.", f".{number}.", 1)
    return f"{prefix}*"
