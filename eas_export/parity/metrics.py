"""Comparing two tensors, and two rows of tokens."""

import torch
from torch import Tensor

from ..config import Record


class Comparison(Record):
    """One line of the ledger.

    error      largest absolute difference
    tolerance  largest allowed one
    note       where the largest difference is, or what else there is to say
    """

    stage: str
    error: float
    tolerance: float
    ok: bool
    note: str = ""


def spread(reference: Tensor) -> float:
    """The standard deviation of the reference, 1 where it has none: the unit of tolerances."""
    return (float(reference.std(correction=0)) if reference.numel() > 1 else 0.0) or 1.0


def compare(stage: str, got: Tensor, reference: Tensor, tolerance: float, note: str = "") -> Comparison:
    """Largest absolute difference against an absolute tolerance; shapes that differ or NaN are an infinite difference."""
    if got.shape != reference.shape:
        return Comparison(
            stage=stage,
            error=float("inf"),
            tolerance=tolerance,
            ok=False,
            note=f"shape {list(got.shape)}, not {list(reference.shape)}",
        )
    differences = [float((a - b).abs().max()) for a, b in zip(_parts(got), _parts(reference))]
    error = float("inf") if any(d != d for d in differences) else max(differences, default=0.0)
    return Comparison(stage=stage, error=error, tolerance=tolerance, ok=error <= tolerance, note=note)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """A tensor in pieces whose differences take no memory to speak of; nothing for an empty one."""
    return tensor.flatten().split(1 << 20) if tensor.numel() else ()


def compare_tokens(stage: str, got: Tensor, logits: Tensor, tolerance: float) -> Comparison:
    """Argmax tokens [steps, B] against the reference's logits [steps, B, vocab]: another token is a difference where the
    reference prefers its own by more than twice the tolerance. The error is the largest such margin."""
    reference = logits.argmax(-1)
    margin = logits.gather(-1, reference[..., None]) - logits.gather(-1, got[..., None])  # [steps, B, 1], 0 where equal
    worst = float(margin.max())
    differing = int((got != reference).sum())
    note = "all equal" if differing == 0 else f"{differing} of {got.numel()} differ"
    return Comparison(stage=stage, error=worst, tolerance=2 * tolerance, ok=worst <= 2 * tolerance, note=note)


def worst(stage: str, comparisons: list[Comparison]) -> Comparison:
    """Many comparisons as one line: the one that uses up most of its tolerance, named in the note."""
    line = max(comparisons, key=lambda c: c.error / c.tolerance if c.tolerance else torch.inf if c.error else 0.0)
    return line.model_copy(
        update={
            "stage": stage,
            "ok": all(c.ok for c in comparisons),
            "note": f"largest at {line.stage} of {len(comparisons)}",
        }
    )
