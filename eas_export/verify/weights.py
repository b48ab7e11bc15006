"""The bundle's stored weights beside the same parameters made from the checkpoint again, one in memory at a time.

Run on prompts, a weight that is a little wrong is hidden by a half precision's tolerance; here it is not.
"""

import torch
from torch import Tensor

from ..bundle.bundle import Bundle
from ..checkpoint.checkpoint import Checkpoint
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..networks import network_part
from ..networks.parameters import network_parameters
from .metrics import relative_error
from .report import WeightsLine, WrongTensor

COPIED = "copied from the checkpoint, rounded once"
COMPUTED = "computed from it (folded, scaled, stacked)"
SUM_ROUNDING = 1e-6  # of float32 sums in another order, in units of a tensor's largest value
SHOWN = 8  # wrong tensors of each kind that a report names


def compare_weights(bundle: Bundle, checkpoint: Checkpoint, progress: Progress) -> tuple[WeightsLine, ...]:
    """Every stored tensor: to the bit where it is a checkpoint's tensor, within one rounding where it was computed from several.

    checkpoint  after `prune` with the bundle's plan
    """
    m, store = bundle.manifest, bundle.store
    made = network_part(checkpoint.config, "parameters")(checkpoint, m.plan, m.limits)
    published = {id(tensor) for tensor in checkpoint.tensors.values()}
    copied = {name for name, tensor in made.items() if id(tensor) in published}
    wanted = network_parameters(checkpoint, m.plan, PRECISIONS[m.precision], m.limits)
    wrong: dict[bool, list[WrongTensor]] = {True: [], False: []}
    with progress.stage(
        "comparing the stored weights", sum(t.numel * t.dtype.itemsize for t in wanted.values())
    ) as done:
        for name, tensor in wanted.items():
            want, exact = tensor.read(), name in copied
            if not store.holds(name, want):
                got = store.tensor(name) if name in store.entries else None
                if exact or got is None or not _within_rounding(got, want):
                    error = None if got is None else relative_error(got, want.float())
                    wrong[exact].append(WrongTensor(name=name, error=error))
            done(want.nbytes)
    counts = {True: len(copied & wanted.keys()), False: len(wanted.keys() - copied)}
    return tuple(
        WeightsLine(kind=kind, tensors=counts[exact], differ=len(wrong[exact]), named=tuple(wrong[exact][:SHOWN]))
        for exact, kind in ((True, COPIED), (False, COMPUTED))
    )


def _within_rounding(got: Tensor, want: Tensor) -> bool:
    """Whether tensors differ by one step of their dtype at most, and by the rounding of float32 sums."""
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        return False
    numbers, largest = torch.finfo(want.dtype), float(want.abs().max())
    allowed = {"rtol": numbers.eps, "atol": SUM_ROUNDING * largest + numbers.smallest_normal * numbers.eps}
    return bool(torch.isclose(got.float(), want.float(), **allowed).all())
