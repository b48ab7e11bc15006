"""Comparing two tensors, next-token distributions, and tokens."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, FiniteFloat
from torch import Tensor

from ..core.record import Record

TOP = 5


def finite(value: float | None) -> float | None:
    """The value; None for NaN and infinity, which JSON has no numbers for."""
    return value if value is not None and math.isfinite(value) else None


Measured = Annotated[float | None, AfterValidator(finite)]


class Line(Record):
    """One output of one step against the reference's.

    error      largest absolute difference; None where there is no number: NaN, infinity, or another shape
    tolerance  largest allowed one
    relative   the error in units of the reference's standard deviation
    cosine     of the two, flattened
    kl         largest divergence of a row's next-token distribution from the reference's, in nats: KL(reference || got); logits only
    top1       share of rows whose likeliest token is the reference's; logits only
    top5       share of the reference's five likeliest tokens that are among the five likeliest; logits only
    before     largest absolute difference from the step before, and what is allowed; None where that has no such output
    ok         within what is allowed, against both
    note       where the largest difference is, or what else there is to say
    """

    stage: str
    error: Measured
    tolerance: FiniteFloat
    ok: bool
    relative: Measured = None
    cosine: Measured = None
    kl: Measured = None
    top1: Measured = None
    top5: Measured = None
    before: Measured = None
    before_tolerance: FiniteFloat | None = None
    note: str = ""

    @property
    def used(self) -> float:
        """The share of its tolerance that it takes, against the reference or the step before, whichever is larger; infinity without
        a number."""
        used = _share(self.error, self.tolerance)
        return used if self.before_tolerance is None else max(used, _share(self.before, self.before_tolerance))


def _share(error: float | None, tolerance: float) -> float:
    if error is None:
        return math.inf
    return error / tolerance if tolerance else (math.inf if error else 0.0)


def spread(reference: Tensor) -> float:
    """The standard deviation of the reference, 1 where it has none: the unit of tolerances."""
    deviation = float(reference.std(correction=0)) if reference.numel() > 1 else 0.0
    return deviation if 0 < deviation < math.inf else 1.0


def largest_difference(got: Tensor, reference: Tensor) -> float | None:
    """None where shapes differ or a difference is no finite number."""
    if got.shape != reference.shape:
        return None
    differences = [float((a - b).abs().max()) for a, b in _parts(got, reference)]
    worst = max(differences, default=0.0) if all(d == d for d in differences) else torch.inf
    return worst if worst < torch.inf else None


def compare(stage: str, got: Tensor, reference: Tensor, tolerance: float) -> Line:
    """The two within an absolute tolerance."""
    error = largest_difference(got, reference)
    if error is None:
        shapes = f"shape {list(got.shape)}, not {list(reference.shape)}"
        said = shapes if got.shape != reference.shape else "not finite"
        return Line(stage=stage, error=None, tolerance=tolerance, ok=False, note=said)
    return Line(
        stage=stage,
        error=error,
        tolerance=tolerance,
        ok=error <= tolerance,
        relative=error / spread(reference),
        cosine=cosine(got, reference),
    )


def compare_logits(stage: str, got: Tensor, reference: Tensor, tolerance: float) -> Line:
    """Logits [B, vocab] float32: compared as any output, and as next-token distributions."""
    line = compare(stage, got, reference, tolerance)
    if line.error is None:
        return line
    top = min(TOP, reference.shape[-1])
    theirs, ours = reference.topk(top).indices, got.topk(top).indices  # [B, top]
    divergence = F.kl_div(got.log_softmax(-1), reference.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return line.model_copy(
        update={
            "kl": finite(float(divergence.max().clamp(min=0))),
            "top1": float((theirs[:, 0] == ours[:, 0]).float().mean()),
            "top5": float((theirs[:, :, None] == ours[:, None, :]).any(-1).float().mean()),
        }
    )


def compare_tokens(stage: str, got: Tensor, logits: Tensor, tolerance: float) -> Line:
    """Argmax tokens [steps, B] against the reference's logits [steps, B, vocab]: another token is a difference where the reference
    prefers its own by more than twice the tolerance. The error is the largest such margin; the note names the first token that
    differs, and its margin."""
    reference = logits.argmax(-1)
    margin = (logits.gather(-1, reference[..., None]) - logits.gather(-1, got[..., None])).squeeze(-1)  # [steps, B]
    worst, differing = float(margin.max()), (got != reference).nonzero().tolist()
    note = f"all {got.numel()} equal"
    if differing:
        step, row = differing[0]
        where = f"token {step + 1}" + (f" of row {row + 1}" if got.shape[1] > 1 else "")
        said = f"{int(got[step, row])}, not {int(reference[step, row])}, by a margin of {float(margin[step, row]):.1e}"
        note = f"{len(differing)} of {got.numel()} differ; first {where}: {said}"
    same = 1 - len(differing) / got.numel()
    return Line(stage=stage, error=worst, tolerance=2 * tolerance, ok=worst <= 2 * tolerance, top1=same, note=note)


def against_before(line: Line, got: Tensor, before: Tensor, tolerance: float) -> Line:
    """The line with the difference from the step before on it."""
    error = largest_difference(got, before)
    ok = line.ok and error is not None and error <= tolerance
    return line.model_copy(update={"before": error, "before_tolerance": tolerance, "ok": ok})


def worst(stage: str, lines: Sequence[Line]) -> Line:
    """Many lines as one: the one that uses up most of its tolerance, named in the note."""
    line = max(lines, key=lambda each: each.used)
    note = f"largest at {line.stage} of {len(lines)}"
    return line.model_copy(update={"stage": stage, "ok": all(each.ok for each in lines), "note": note})


def cosine(got: Tensor, reference: Tensor) -> float:
    """Of two tensors of one shape, flattened; 1 where both are zero."""
    products = torch.zeros(3, dtype=torch.float64)
    for a, b in _parts(got, reference):
        a, b = a.double(), b.double()
        products += torch.stack([a @ b, a @ a, b @ b])
    both, ours, theirs = products.tolist()
    return both / (ours * theirs) ** 0.5 if ours and theirs else float(ours == theirs)


def _parts(got: Tensor, reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both in pieces whose differences take no memory to speak of; nothing for empty ones."""
    if got.numel():
        yield from zip(got.flatten().split(1 << 20), reference.flatten().split(1 << 20))
