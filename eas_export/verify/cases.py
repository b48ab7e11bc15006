"""What is compared: each prompt on its own and, where a bundle takes batches, all prompts at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends.runtime import Runtime
from ..core.errors import UserError
from ..generation.generate import Generation, generate, join_generations
from ..networks.decoder.prompts import Prompts, join_prompts
from .samples import Samples


@dataclass(frozen=True)
class Case:
    """rows: which of all prompts; prompts: these as one batch; forced: the tokens fed after them [steps, B]"""

    name: str
    rows: slice
    prompts: Prompts
    forced: Tensor

    def of(self, results: Sequence[Generation]) -> Generation:
        """The case's part of every prompt's own results."""
        mine = results[self.rows]
        return mine[0] if len(mine) == 1 else join_generations(list(mine))


def make_cases(samples: Samples, forced: Sequence[Tensor], batch: int) -> list[Case]:
    """forced: every prompt's tokens [steps, 1]; batch: how many prompts go at once"""
    prompts = list(samples.prompts.values())
    cases = [Case(name, slice(i, i + 1), prompts[i], forced[i]) for i, name in enumerate(samples.prompts)]
    for name, rows in batches(len(prompts), batch):
        cases.append(Case(name, rows, join_prompts(prompts[rows]), torch.cat(list(forced[rows]), 1)))
    return cases


def batches(count: int, size: int) -> Iterator[tuple[str, slice]]:
    """So many samples in batches of up to `size`, each with its name; what would be one sample alone is none."""
    for first in range(0, count, size):
        end = min(first + size, count)
        if end - first > 1:
            yield f"{first + 1} to {end} in one batch", slice(first, end)


def choose_tokens(samples: Samples, runtimes: Sequence[Runtime]) -> list[Tensor]:
    """The tokens to feed after each prompt, [steps, 1] each: what the file says, else what the bundle itself says, greedily, on the first
    runtime where that is quick; else drawn ones."""
    drawn = list(samples.forced.values())
    quick = next((runtime for runtime in runtimes if runtime.stays_open), None)
    if samples.given or quick is None:
        return drawn
    try:
        return [generate(quick, p, len(t)).tokens[:-1] for p, t in zip(samples.prompts.values(), drawn)]
    except UserError:  # it says so again when it is compared
        return drawn
