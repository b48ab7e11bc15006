"""What a search leaves beside its checkpoint: what was asked, what the bandit saw, what was chosen and what it cost."""

from typing import Literal

from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from ..checkpoint.eas_adapter import GROUPS
from ..core.record import Record
from .bandit import Bandit

SCHEMA_VERSION = 1


class SearchOptions(Record):
    """What a search does.

    count          attentions to skip
    skip           these ones, of which nothing has to be found out; None: by the bandit
    policy         a row of bandit.POLICIES
    steps          of training with skips of chance, in which the bandit looks on; none where `skip` is given
    warm_up        of them before its first event
    every          steps between two events
    candidates     subnetworks of an event
    tune_steps     of training with the chosen skips
    batch          questions of a step, and of an event
    learning_rate  of AdamW, at its highest
    kept_rank, skipped_rank  inner widths of new adapters
    held_out       share of the questions that are not trained on: events, and HeldOut in the report, are of them
    precision      of weights and activations; adapters are trained in fp32
    """

    count: int = Field(ge=0)
    skip: tuple[int, ...] | None = None
    policy: str = "lavin-code"
    steps: int = Field(default=2000, ge=0)
    warm_up: int = Field(default=500, ge=0)
    every: PositiveInt = 10
    candidates: int = Field(default=3, ge=2)
    tune_steps: int = Field(default=2000, ge=0)
    batch: PositiveInt = 16
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    kept_rank: int = Field(default=128, gt=0, multiple_of=GROUPS)
    skipped_rank: int = Field(default=128, gt=0, multiple_of=GROUPS)
    held_out: float = Field(default=0.1, gt=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(default=0, ge=0, lt=1 << 32)

    @model_validator(mode="after")
    def _leaves_events(self) -> "SearchOptions":
        if self.skip is None and self.warm_up >= self.steps:
            raise ValueError(
                f"a warm-up of {self.warm_up} leaves no event in {self.steps} steps: --warm-up has to be below --steps"
            )
        return self

    @property
    def search_steps(self) -> int:
        return 0 if self.skip is not None else self.steps

    @property
    def all_steps(self) -> int:
        return self.search_steps + self.tune_steps


class Loss(Record):
    """step: of the whole training; loss: of its batch, in nats"""

    step: int
    loss: FiniteFloat


class HeldOut(Record):
    """Losses over questions that were held out (256 of them where there are more), in nats: before any training, with every attention; and with the chosen ones
    skipped, before and after the training with these skips."""

    untrained: FiniteFloat | None = None
    chosen: FiniteFloat | None = None
    tuned: FiniteFloat | None = None


class SearchReport(Record):
    """sources: sha256 of each file that it was made from, and of all images together; skipped: None until it is found out; losses: of a step now and then;
    seconds: of all processes that worked on it; ended: the checkpoint is there"""

    schema_version: Literal[1] = SCHEMA_VERSION
    version: str
    options: SearchOptions
    sources: tuple[str, ...]
    questions: int
    trained_parameters: int
    bandit: Bandit
    skipped: tuple[int, ...] | None = None
    losses: tuple[Loss, ...] = ()
    held_out: HeldOut = HeldOut()
    seconds: FiniteFloat = 0.0
    ended: bool = False

    @property
    def asked(self) -> tuple:
        """What decides a search's outcome."""
        return self.options, self.sources, self.version

    def until(self, step: int) -> "SearchReport":
        """What was known before this step of the training."""
        bandit = self.bandit.model_copy(update={"events": tuple(e for e in self.bandit.events if e.step < step)})
        known = {"bandit": bandit, "losses": tuple(loss for loss in self.losses if loss.step < step)}
        if step < self.options.search_steps:
            known |= {"skipped": None, "held_out": self.held_out.model_copy(update={"chosen": None, "tuned": None})}
        return self.model_copy(update=known)
