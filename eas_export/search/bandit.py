"""Which attentions are redundant: a bandit with an arm per attention (paper, section 4.3, Eq. 14-16; LaVIN-EAS's and METER-EAS's code).

Every site, an attention that could be skipped, has a score. Scores give probabilities, by which subnetworks that skip k sites each are
drawn. An event draws a few subnetworks, computes their losses on one batch, and updates the scores of the sites that each of them skips:

    score_i += rate (r - mean r) p_i (1 - p_i)      r = exp(-loss), the mean over the event's subnetworks

With a positive rate, a site's score rises when the model does well without it, and the highest are skipped. In the paper the score is a
preference for keeping the site, and the lowest are skipped: a negative rate. Everything else is the same algorithm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from ..core.record import Record
from ..core.registry import find

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SHARPNESS = 10.0  # of the softmax, in LaVIN-EAS's code


def softmax(scores: Floats) -> Floats:
    """[sites] -> probabilities that sum to 1: softmax(10 score)"""
    powers = np.exp(SHARPNESS * (scores - scores.max()))
    return powers / powers.sum()


def sigmoid(scores: Floats) -> Floats:
    """[sites] -> independent probabilities"""
    return 1 / (1 + np.exp(-scores))


def draw_by_share(probabilities: Floats, count: int, random: np.random.Generator) -> Integers:
    """`count` sites drawn without replacement, in proportion to their probabilities: [sites] -> [count]"""
    return random.choice(len(probabilities), count, replace=False, p=probabilities / probabilities.sum())


def draw_lowest(probabilities: Floats, count: int, random: np.random.Generator) -> Integers:
    """The `count` sites with the lowest pi_i ~ U(0, p_i) (Eq. 14): [sites] -> [count]"""
    return np.argsort(random.uniform(0, probabilities), kind="stable")[:count]


def update(scores: Floats, probabilities: Floats, candidates: Integers, losses: Floats, rate: float) -> Floats:
    """The scores after an event (Eq. 15-16).

    scores, probabilities  [sites]; the candidates were drawn with these probabilities
    candidates             [candidates, skipped]: the sites that each subnetwork skips
    losses                 [candidates], of one batch
    rate                   negative for the paper's sign
    returns                [sites]
    """
    rewards = np.exp(-np.asarray(losses, np.float64))
    steps = rate * probabilities * (1 - probabilities)  # [sites]
    after = np.array(scores, np.float64)
    for sites, gain in zip(candidates, rewards - rewards.mean(), strict=True):
        after[sites] += gain * steps[sites]
    return after


@dataclass(frozen=True)
class Policy:
    """How subnetworks are drawn from scores, and how fast scores change.

    probabilities  scores [sites] -> [sites]
    draw           (probabilities, count, random) -> the sites that a subnetwork skips [count]
    rate           see `update`
    """

    probabilities: Callable[[Floats], Floats]
    draw: Callable[[Floats, int, np.random.Generator], Integers]
    rate: float


POLICIES = {
    "lavin-code": Policy(softmax, draw_by_share, rate=2.0),
    "meter-code": Policy(sigmoid, draw_by_share, rate=1.0),
    "paper": Policy(softmax, draw_lowest, rate=-2.0),  # the paper states neither softmax nor rate: LaVIN's
}


class Event(Record):
    """One evaluation of a few subnetworks.

    step        of the training
    candidates  the sites that each subnetwork skipped
    losses      of the subnetworks, on one batch
    scores      of all sites afterwards
    """

    step: int
    candidates: tuple[tuple[int, ...], ...]
    losses: tuple[FiniteFloat, ...]
    scores: tuple[FiniteFloat, ...]


class Bandit(Record):
    """The state of a search, immutable: `learn` returns the next one. Random draws depend on the seed and the step only, so that a
    resumed search takes the same course."""

    policy: str
    sites: int = Field(gt=0)
    count: int = Field(ge=0)
    seed: int = Field(ge=0)
    events: tuple[Event, ...] = ()

    @property
    def scores(self) -> Floats:
        return np.array(self.events[-1].scores) if self.events else np.zeros(self.sites)

    @property
    def probabilities(self) -> Floats:
        return self._policy.probabilities(self.scores)

    @property
    def entropy(self) -> float:
        """Entropy of the normalized probabilities, in nats; log(sites) at the start."""
        shares = self.probabilities / self.probabilities.sum()
        return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())

    @property
    def ranking(self) -> tuple[int, ...]:
        """All sites, the most redundant first; ties by lower number."""
        sign = np.sign(self._policy.rate)
        return tuple(int(site) for site in np.argsort(-sign * self.scores, kind="stable"))

    @property
    def chosen(self) -> tuple[int, ...]:
        """The sites to skip, in ascending order."""
        return tuple(sorted(self.ranking[: self.count]))

    def draw(self, step: int, number: int) -> list[tuple[int, ...]]:
        """The sites that each of `number` subnetworks skips at this step, in ascending order."""
        random = np.random.default_rng([self.seed, step, number])
        p = self.probabilities
        return [tuple(sorted(self._policy.draw(p, self.count, random).tolist())) for _ in range(number)]

    def learn(self, step: int, candidates: list[tuple[int, ...]], losses: list[float]) -> "Bandit":
        """The state after an event."""
        drawn = np.array(candidates, np.int64).reshape(len(candidates), self.count)
        scores = update(self.scores, self.probabilities, drawn, np.array(losses), self._policy.rate)
        event = Event(step=step, candidates=tuple(candidates), losses=tuple(losses), scores=tuple(scores.tolist()))
        return self.model_copy(update={"events": (*self.events, event)})

    @property
    def _policy(self) -> Policy:
        return get_policy(self.policy)


def get_policy(name: str) -> Policy:
    """The policy of this name. Raises UserError for an unknown one."""
    return find(POLICIES, name, "policy", "--policy")
