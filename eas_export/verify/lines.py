"""The ledger's lines: one output of one step against the reference's, and against that of the step before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, FiniteFloat, create_model
from torch import Tensor

from ..core.precision import Precision
from ..core.record import Record
from .metrics import METRICS, largest_difference, spread

# None for NaN and infinity, which JSON has no numbers for
Measured = Annotated[
    float | None, AfterValidator(lambda value: value if value is not None and math.isfinite(value) else None)
]


class _Judged(Record):
    stage: str
    error: Measured
    tolerance: FiniteFloat
    ok: bool
    relative: Measured = None


_Measured = create_model(
    "_Measured", __base__=_Judged, **{m.name: (Measured, Field(None, description=m.what)) for m in METRICS}
)


class Line(_Measured):
    """One output of one step against the reference's, with every metric of metrics.py.

    error      largest absolute difference; None where there is no number: NaN, infinity, or another shape
    tolerance  largest allowed one
    relative   the error in units of the reference's standard deviation
    before     largest absolute difference from the step before, before_tolerance: largest allowed one; None where that has no such output
    ok         whether it is within both tolerances
    note       where the largest difference is, or another remark
    """

    before: Measured = None
    before_tolerance: FiniteFloat | None = None
    note: str = ""

    @property
    def used(self) -> float:
        """The share of its tolerance that the error uses, against the reference or the step before, whichever is larger; infinity
        without a number."""
        used = _share(self.error, self.tolerance)
        return used if self.before_tolerance is None else max(used, _share(self.before, self.before_tolerance))


def _share(error: float | None, tolerance: float) -> float:
    if error is None:
        return math.inf
    return error / tolerance if tolerance else (math.inf if error else 0.0)


@dataclass(frozen=True)
class Output:
    """One output of a step on a case, and how it is compared.

    want, before  the reference's output, and that of the step before, which may have none
    unit      of errors; None: the standard deviation of `want`
    allowed   largest absolute error; None: the precision's and the step's tolerance in that unit
    logits    whether they are logits [B, vocab]
    """

    name: str
    got: Tensor
    want: Tensor
    before: Tensor | None = None
    unit: float | None = None
    allowed: float | None = None
    logits: bool = False

    def line(self, tolerance: float, precision: Precision) -> Line:
        """tolerance: largest error against the step before, in the output's unit"""
        unit = spread(self.want) if self.unit is None else self.unit

        def allowed(tolerance: float) -> float:
            return max(tolerance * unit, precision.floor) if self.allowed is None else self.allowed

        line = compare(self.name, self.got, self.want, allowed(precision.tolerance), unit, self.logits)
        if self.before is None:
            return line
        error, most = largest_difference(self.got, self.before), allowed(tolerance)
        ok = line.ok and error is not None and error <= most
        return line.model_copy(update={"before": error, "before_tolerance": most, "ok": ok})


def compare(
    stage: str, got: Tensor, reference: Tensor, tolerance: float, unit: float | None = None, logits: bool = False
) -> Line:
    """Whether the two are within an absolute tolerance, and every metric of such an output. unit: of the relative error, by default the
    reference's standard deviation"""
    error = largest_difference(got, reference)
    if error is None:
        shapes = f"shape {list(got.shape)}, not {list(reference.shape)}"
        note = shapes if got.shape != reference.shape else "not finite"
        return Line(stage=stage, error=None, tolerance=tolerance, ok=False, note=note)
    measured = {m.name: m.measure(got, reference) for m in METRICS if logits or not m.logits}
    relative = error / (unit or spread(reference))
    return Line(stage=stage, error=error, tolerance=tolerance, ok=error <= tolerance, relative=relative, **measured)


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
        what = f"{int(got[step, row])}, not {int(reference[step, row])}, by a margin of {float(margin[step, row]):.1e}"
        note = f"{len(differing)} of {got.numel()} differ; first {where}: {what}"
    same = 1 - len(differing) / got.numel()
    return Line(stage=stage, error=worst, tolerance=2 * tolerance, ok=worst <= 2 * tolerance, top1=same, note=note)


def worst(stage: str, lines: Sequence[Line]) -> Line:
    """Many lines as one: the one that uses most of its tolerance, named in the note."""
    line = max(lines, key=lambda each: each.used)
    note = f"largest of {len(lines)}: {line.stage}"
    return line.model_copy(update={"stage": stage, "ok": all(each.ok for each in lines), "note": note})
