"""One prompt's results, or one batch's, as lines: each output against the reference's, and against that of the step before."""

from dataclasses import dataclass

from torch import Tensor

from ..core.precision import Precision
from ..generation.generate import Generation
from .metrics import Line, against_before, compare, compare_logits, compare_tokens, spread, worst
from .reference import Reference


@dataclass(frozen=True)
class Results:
    """The results of one step on one prompt, or on several as one batch.

    before     what the step before gave
    tolerance  largest error against the step before, in units of the reference's standard deviation
    """

    got: Generation
    want: Generation
    before: Generation
    tolerance: float
    precision: Precision

    def lines(self, reference: Reference) -> tuple[Line, ...]:
        """All of them, in the order of computation."""
        got, want, before = self.got, self.want, self.before
        lines = []
        if want.image_features is not None:
            line = compare("vision", got.image_features, want.image_features, self._allowed(want.image_features))
            lines.append(self._with_before(line, got.image_features, want.image_features, before.image_features))
        for name, value in want.state.items():
            allowed = self.precision.state * max(1.0, spread(value))
            line = compare(name, got.state[name], value, allowed)
            lines.append(against_before(line, got.state[name], before.state[name], allowed))
        lines.append(self._logits("prefill", 0))
        if got.folded:
            lines.append(self._fold(reference))
        lines += [self._logits(f"decode {step}", step) for step in range(1, len(want.logits))]
        lines.append(compare_tokens("tokens", got.tokens, want.logits, self.precision.tolerance * spread(want.logits)))
        return tuple(lines)

    def _logits(self, stage: str, step: int) -> Line:
        got, want = self.got.logits[step], self.want.logits[step]
        line = compare_logits(stage, got, want, self._allowed(want))
        return self._with_before(line, got, want, self.before.logits[step])

    def _fold(self, reference: Reference) -> Line:
        """Every folded weight and bias against the exact ones, a layer's at a time."""
        lines = []
        for layer in range(reference.config.layers):
            for name, value in reference.fold(layer, self.want.state).items():
                lines.append(compare(name, self.got.folded[name].float(), value, self._allowed(value)))
        return worst("fold", lines)

    def _with_before(self, line: Line, got: Tensor, want: Tensor, before: Tensor) -> Line:
        return against_before(line, got, before, max(self.tolerance * spread(want), self.precision.floor))

    def _allowed(self, want: Tensor) -> float:
        return max(self.precision.tolerance * spread(want), self.precision.floor)
