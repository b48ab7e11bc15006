"""The report of a search: its options, the bandit's events, the chosen attentions and the losses."""

from typing import Literal

from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from ..checkpoint.eas_adapter import GROUPS
from ..core.record import Record
from .bandit import Bandit

SCHEMA_VERSION = 1


class SearchOptions(Record):
    """Options of a search.

    count          number of attentions to skip
    skip           the attentions to skip; None: chosen by the bandit
    policy         a row of bandit.POLICIES
    steps          training steps with random skips, during which the bandit evaluates; unused with `skip`
    warm_up        steps before the first event
    every          steps between two events
    candidates     subnetworks per event
    tune_steps     training steps with the chosen skips
    batch          questions per step and per event
    learning_rate  of AdamW, at its maximum
    kept_rank, skipped_rank  inner widths of new adapters
    held_out       share of the questions that are not trained on, but used for events and HeldOut
    precision      of weights and activations; adapters are trained in fp32
    """

    count: int
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
                f"a warm-up of {self.warm_up} leaves no event in {self.steps} steps: pass a --warm-up below --steps"
            )
        if self.all_steps < 1:
            raise ValueError("with a list of skips and 0 tune_steps nothing is trained: pass --tune-steps 1 or more")
        return self

    @property
    def search_steps(self) -> int:
        return 0 if self.skip is not None else self.steps

    @property
    def all_steps(self) -> int:
        return self.search_steps + self.tune_steps


class Loss(Record):
    """step: of the whole training; loss: of the step's batch, in nats"""

    step: int
    loss: FiniteFloat


class HeldOut(Record):
    """Losses over at most 256 held-out questions, in nats.

    untrained  with every attention, before any training
    chosen     with the chosen skips, before training with them
    tuned      with the chosen skips, after training with them
    """

    untrained: FiniteFloat | None = None
    chosen: FiniteFloat | None = None
    tuned: FiniteFloat | None = None


class SearchReport(Record):
    """The state and the result of a search.

    sources  sha256 of each input file, and of all images together
    skipped  the chosen attentions, None until they are chosen
    losses   of every 50th training step
    seconds  in total, over all processes that worked on it
    ended    whether the checkpoint is written
    """

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
    def identity(self) -> tuple:
        """What decides a search's outcome."""
        return self.options, self.sources, self.version

    def until(self, step: int) -> "SearchReport":
        """The report as it was before this training step."""
        bandit = self.bandit.model_copy(update={"events": tuple(e for e in self.bandit.events if e.step < step)})
        known = {"bandit": bandit, "losses": tuple(loss for loss in self.losses if loss.step < step)}
        if step < self.options.search_steps:
            known |= {"skipped": None, "held_out": self.held_out.model_copy(update={"chosen": None, "tuned": None})}
        return self.model_copy(update=known)
