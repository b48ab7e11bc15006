"""Choosing the next token from logits: the likeliest, or a draw.

Every draw is seeded by the seed, the row's number and its length so far: what a row says depends neither on the rows it shares a
batch with, nor on how often its answer was interrupted.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..core.record import Record


class Sampling(Record):
    """How tokens are chosen.

    temperature  logits are divided by it; 0 takes the likeliest token (the published evaluation of LaVIN uses 0.1)
    top_p        draw from the likeliest tokens only: those before which at most this much probability lies (published: 0.75)
    seed         of the draws
    """

    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=1 << 62)


GREEDY = Sampling()


def choose(logits: Tensor, sampling: Sampling, rows: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """The next token of every row: logits [B, vocab], on any device -> [B] int64, on the CPU

    rows, lengths  each row's number and how many tokens it has so far: with the seed they decide its draw
    """
    if sampling.temperature == 0:
        return logits.argmax(-1).cpu()
    draws = (_draw(*each, sampling) for each in zip(logits.cpu(), rows, lengths, strict=True))
    return torch.tensor(list(draws))


def _draw(logits: Tensor, row: int, length: int, sampling: Sampling) -> int:
    """[vocab] -> a token"""
    wide = logits.double()
    sorted_, tokens = torch.softmax((wide - wide.max()) / sampling.temperature, -1).sort(descending=True)
    kept = sorted_.masked_fill(sorted_.cumsum(-1) - sorted_ > sampling.top_p, 0.0)
    # Drawn in the vocabulary's order, so that a rounding that swaps two neighbours in the sort leaves the others' noise alone
    probabilities = torch.zeros_like(kept).scatter(0, tokens, kept)
    seed = int(np.random.SeedSequence([sampling.seed, row, length]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(seed & (1 << 63) - 1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
