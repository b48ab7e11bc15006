"""One pair's answers, or one batch's, as lines: each output against the reference's, and against that of the step before."""

from dataclasses import dataclass

import torch

from ...backends.runtime import Tensors
from ...core.precision import Precision
from ..metrics import Line, against_before, compare, compare_logits, compare_tokens, spread


@dataclass(frozen=True)
class CrossResults:
    """What one step gave on one pair, or on several as one batch.

    unit       output -> the standard deviation of the reference's on all samples: one score has none
    before     what the step before gave
    tolerance  largest error against the step before, in these units
    """

    got: Tensors
    want: Tensors
    before: Tensors
    unit: dict[str, float]
    tolerance: float
    precision: Precision

    def lines(self) -> tuple[Line, ...]:
        """All of them, in the order of computation."""
        (head,) = self.want.keys() - {"cls_feats"}
        lines = [self._line("cls_feats", compare)]
        if head == "scores":
            return (*lines, self._line(head, compare))
        logits = self.want[head]
        allowed = self._allowed(head, self.precision.tolerance)
        answers = compare_tokens("answers", self.got[head].argmax(-1)[None], logits[None], allowed)
        return (*lines, self._line(head, compare_logits), answers)

    def _line(self, name: str, compared) -> Line:
        got, want = self.got[name], self.want[name]
        line = compared(name, got, want, self._allowed(name, self.precision.tolerance))
        if line.error is not None:
            line = line.model_copy(update={"relative": line.error / self.unit[name]})
        return against_before(line, got, self.before[name], self._allowed(name, self.tolerance))

    def _allowed(self, name: str, tolerance: float) -> float:
        return max(tolerance * self.unit[name], self.precision.floor)


def units(results: list[Tensors]) -> dict[str, float]:
    """Output -> its standard deviation over all results."""
    return {name: spread(torch.cat([result[name].flatten() for result in results])) for name in results[0]}
