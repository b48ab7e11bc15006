"""How outputs are measured: METRICS, from which terminal, page and JSON follow; the units of errors; how numbers are written."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TOP = 5
NO_NUMBER = "-"


def number(value: float | None) -> str:
    if value is None:
        return NO_NUMBER
    return f"{value:.1e}" if value else "0"


def seven_digits(value: float | None) -> str:
    return NO_NUMBER if value is None else f"{value:.7f}"


def percent(value: float | None) -> str:
    """Rounded, but only exact shares are 0 % or 100 %."""
    if value is None:
        return NO_NUMBER
    return f"{100 * value:.0f} %" if value in (0, 1) else f"{min(max(100 * value, 0.1), 99.9):.1f} %"


def spread(reference: Tensor) -> float:
    """The standard deviation of the reference, 1 where it has none: the unit of tolerances."""
    deviation = float(reference.std(correction=0)) if reference.numel() > 1 else 0.0
    return deviation if 0 < deviation < math.inf else 1.0


OUTLIER = 50  # standard deviations


def stream_units(blocks: Mapping[tuple[str, int], Tensor]) -> dict[tuple[str, int], float]:
    """The unit of tolerances of each block's output, by part and layer, in the order of computation: its standard deviation or, where single
    values are more than 50 of these, a 50th of the largest, also of the blocks before. Pretrained language models have
    such values. They are rounded in proportion to themselves, and where a later block takes them away again their rounding stays."""
    units: dict[tuple[str, int], float] = {}
    outliers: dict[str, float] = {}  # the largest of each part so far
    for (part, layer), x in blocks.items():
        outliers[part] = max(outliers.get(part, 0.0), outlier_unit(x))
        units[part, layer] = max(spread(x), outliers[part])
    return units


def outlier_unit(x: Tensor) -> float:
    """A 50th of the largest value: the unit of tolerances where it is larger than the standard deviation."""
    largest = float(x.abs().max()) if x.numel() else 0.0
    return largest / OUTLIER if largest < math.inf else 0.0


def largest_difference(got: Tensor, reference: Tensor) -> float | None:
    """None where shapes differ or a difference is no finite number."""
    if got.shape != reference.shape:
        return None
    differences = [float((a - b).abs().max()) for a, b in _parts(got, reference)]
    worst = max(differences, default=0.0) if all(d == d for d in differences) else torch.inf
    return worst if worst < torch.inf else None


def relative_error(got: Tensor, reference: Tensor, smallest: float = 0.0) -> float | None:
    """Largest difference in units of the reference's standard deviation, or of `smallest`; None where there is no number."""
    error = largest_difference(got.float(), reference)
    return None if error is None else error / max(spread(reference), smallest)


def cosine(got: Tensor, reference: Tensor) -> float:
    """Of two tensors of one shape, flattened; 1 where both are zero."""
    products = torch.zeros(3, dtype=torch.float64)
    for a, b in _parts(got, reference):
        a, b = a.double(), b.double()
        products += torch.stack([a @ b, a @ a, b @ b])
    both, ours, theirs = products.tolist()
    return both / (ours * theirs) ** 0.5 if ours and theirs else float(ours == theirs)


def divergence(got: Tensor, reference: Tensor) -> float:
    """Of the rows' next-token distributions, the largest KL(reference || got) in nats: logits [B, vocab]"""
    each = F.kl_div(got.log_softmax(-1), reference.log_softmax(-1), reduction="none", log_target=True).sum(-1)  # [B]
    return float(each.max().clamp(min=0))


def same_first(got: Tensor, reference: Tensor) -> float:
    """Share of rows with the same likeliest token: logits [B, vocab]"""
    return float((got.argmax(-1) == reference.argmax(-1)).float().mean())


def same_among_first(got: Tensor, reference: Tensor) -> float:
    """Share of the reference's five likeliest tokens that are among the five likeliest: logits [B, vocab]"""
    top = min(TOP, reference.shape[-1])
    ours, theirs = got.topk(top).indices, reference.topk(top).indices  # [B, top]
    return float((theirs[:, :, None] == ours[:, None, :]).any(-1).float().mean())


@dataclass(frozen=True)
class Metric:
    """A number beside an output's largest error. A new metric is one row of METRICS: the ledger's lines, the JSON Schema, the page and
    the terminal's tables follow from it.

    name     in JSON
    title    of its column
    measure  (got, reference) of one shape -> the number
    write    the number, or None, as text
    what     in words, for the JSON Schema
    logits   whether only logits [B, vocab] have it
    brief    whether the terminal shows it, too
    """

    name: str
    title: str
    measure: Callable[[Tensor, Tensor], float]
    write: Callable[[float | None], str]
    what: str
    logits: bool = False
    brief: bool = True


METRICS = (
    Metric("cosine", "cosine", cosine, seven_digits, "of the two, flattened"),
    Metric(
        "kl",
        "KL",
        divergence,
        number,
        "largest divergence of a row's next-token distribution from the reference's, in nats: KL(reference || got)",
        logits=True,
        brief=False,
    ),
    Metric("top1", "top-1", same_first, percent, "share of rows whose likeliest token is the reference's", logits=True),
    Metric(
        "top5",
        "top-5",
        same_among_first,
        percent,
        "share of the reference's five likeliest tokens that are among the five likeliest",
        logits=True,
        brief=False,
    ),
)


def _parts(got: Tensor, reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both in pieces whose differences take little memory; no pieces for empty tensors."""
    if got.numel():
        yield from zip(got.flatten().split(1 << 20), reference.flatten().split(1 << 20))
