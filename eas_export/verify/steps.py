"""The steps from the checkpoint to what is deployed: what each one adds to the one before, and how much error that may be."""

from collections.abc import Callable
from dataclasses import dataclass

from ..core.precision import PRECISIONS, Precision


@dataclass(frozen=True)
class Step:
    """name     as reports call it
    what      it computes
    tolerance  precision -> the largest error against the step before, in units of the reference's standard deviation; reason: why
    """

    name: str
    what: str
    tolerance: Callable[[Precision], float]
    reason: str


REFERENCE = "pytorch, unfolded"

FOLDED = Step(
    name="pytorch, folded",
    what="the same weights in PyTorch in float32, each prompt's adapters folded into them: what folding changes",
    tolerance=lambda precision: PRECISIONS["fp32"].tolerance,
    reason="a fold is the same sum in another order, in float32 in every precision",
)
STORED = Step(
    name="pytorch, the bundle's weights",
    what="the bundle's own weights in PyTorch in float32, in its fold mode: what writing and rounding them changes",
    tolerance=lambda precision: precision.tolerance,
    reason="every weight is rounded once, to the bundle's precision, which in bf16 is most of what is allowed at all",
)


def backend_step(runs_as: str, name: str) -> Step:
    """The bundle on a backend. runs_as: what the backend says of itself ("onnxruntime, bf16 computed in float32")"""
    return Step(
        name=name,
        what=f"the bundle on {runs_as}: what running it there, and the arithmetic, change",
        tolerance=lambda precision: precision.tolerance,
        reason="every operation is rounded to the bundle's precision, in another order",
    )
