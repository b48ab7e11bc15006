"""Choose the next token from logits, greedily or at random.

Each draw is seeded with the seed, the row's number and its length so far: a row's answer depends neither on the other rows of its batch,
nor on interruptions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..core.record import Record


class Sampling(Record):
    """How tokens are chosen.

    temperature  divides the logits; 0 takes the likeliest token (LaVIN's published evaluation uses 0.1)
    top_p        draw only from the likeliest tokens, while those before have at most this probability in total (published: 0.75)
    seed         of the random draws
    """

    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=1 << 62)


GREEDY = Sampling()


def choose(logits: Tensor, sampling: Sampling, rows: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """The next token of every row: logits [B, vocab], on any device -> [B] int64, on the CPU

    rows, lengths  each row's number and its tokens so far, which seed its draw
    """
    if sampling.temperature == 0:
        return logits.argmax(-1).cpu()
    draws = (_draw(*row, sampling) for row in zip(logits.cpu(), rows, lengths, strict=True))
    return torch.tensor(list(draws))


def _draw(logits: Tensor, row: int, length: int, sampling: Sampling) -> int:
    """[vocab] -> a token"""
    wide = logits.double()
    sorted_, tokens = torch.softmax((wide - wide.max()) / sampling.temperature, -1).sort(descending=True)
    kept = sorted_.masked_fill(sorted_.cumsum(-1) - sorted_ > sampling.top_p, 0.0)
    # Drawn in the vocabulary's order, so that rounding that swaps two neighbours in the sort does not change the noise of the others
    probabilities = torch.zeros_like(kept).scatter(0, tokens, kept)
    seed = int(np.random.SeedSequence([sampling.seed, row, length]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(seed & (1 << 63) - 1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
