"""Choosing the next token from logits: the likeliest, or a draw.

Every row draws from a stream of its own, seeded by the seed and the row's number: what a row says does not depend on the rows it
shares a batch with.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor

from .config import Record


class Sampling(Record):
    """How tokens are chosen.

    temperature  logits are divided by it; 0 takes the likeliest token (the published evaluation of LaVIN uses 0.1)
    top_p        draw from the likeliest tokens only: those before which less than this much probability lies (published: 0.75)
    seed         of the draws
    """

    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=1 << 62)


GREEDY = Sampling()


class Chooser:
    """Chooses for the rows with these numbers, step after step."""

    def __init__(self, sampling: Sampling, rows: Iterable[int]):
        self.sampling = sampling
        self._draws = [torch.Generator().manual_seed(sampling.seed + row) for row in rows]

    def __call__(self, logits: Tensor) -> Tensor:
        """[B, vocab] -> [B] int64"""
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        return torch.stack([self._draw(row, generator) for row, generator in zip(logits, self._draws, strict=True)])

    def _draw(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """[vocab] -> []"""
        wide = logits.double()
        probabilities, tokens = torch.softmax((wide - wide.max()) / self.sampling.temperature, -1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        kept = probabilities.masked_fill(before > self.sampling.top_p, 0.0)
        return tokens[torch.multinomial(kept, 1, generator=generator)[0]]
