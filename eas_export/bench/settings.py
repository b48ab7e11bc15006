"""What is measured: how long prompts and answers are, how many rows, and how many trials each baseline has."""

from typing import Literal

from pydantic import Field, PositiveInt

from ..core.errors import UserError
from ..core.limits import Limits
from ..core.record import Record

DEFAULT_PROMPT = 64  # tokens, where the bundle takes as many
DEFAULT_NEW = 32
BATCHES = (1, 2, 4, 8)
MOST_ROWS, MOST_ROUNDS = 1 << 10, 10_000


class Workload(Record):
    """prompt_tokens   of each prompt
    new_tokens     that are decoded after it, end to end
    batches        rows of a step, smallest first; the first is 1
    rounds         trials of each baseline for a step of one row
    device         cpu or cuda: where baselines run
    """

    prompt_tokens: PositiveInt
    new_tokens: PositiveInt
    batches: tuple[int, ...] = BATCHES
    rounds: int = Field(default=20, ge=2, le=MOST_ROUNDS)
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def few(self) -> int:
        """Trials for every other part."""
        return max(2, self.rounds // 4)

    @property
    def answers(self) -> int:
        """Trials for a whole answer, which is many steps."""
        return max(2, self.rounds // 8)


def make_workload(
    limits: Limits,
    prompt_tokens: int | None,
    new_tokens: int | None,
    batches: tuple[int, ...],
    rounds: int,
    device: str,
) -> Workload:
    """None: the default, or as much as the bundle takes. Raises UserError for values beyond the bundle's limits or out of range."""
    prompt = min(DEFAULT_PROMPT, limits.max_prompt) if prompt_tokens is None else prompt_tokens
    new = min(DEFAULT_NEW, max(1, limits.max_tokens - prompt)) if new_tokens is None else new_tokens
    for name, value, most in (
        ("prompt-tokens", prompt, limits.max_prompt),
        ("new-tokens", new, limits.max_tokens - prompt),
    ):
        if not 1 <= value <= most:
            fix = f"give 1 to {most}, or build with another --max-prompt and --max-tokens"
            raise UserError(f"--{name} is {value}, out of range 1 to {most}", where=f"--{name}", fix=fix)
    if not batches or not all(1 <= rows <= MOST_ROWS for rows in batches):
        fix = f"give comma-separated numbers from 1 to {MOST_ROWS}, like 1,2,4,8"
        raise UserError(
            f"--batch is {list(batches)}, with sizes out of range 1 to {MOST_ROWS}", where="--batch", fix=fix
        )
    if not 2 <= rounds <= MOST_ROUNDS:
        fix = f"give 2 to {MOST_ROUNDS}: one trial has no spread"
        raise UserError(f"--rounds is {rounds}", where="--rounds", fix=fix)
    rows = tuple(sorted({1, *batches}))
    return Workload(prompt_tokens=prompt, new_tokens=new, batches=rows, rounds=rounds, device=device)
