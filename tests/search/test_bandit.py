"""The bandit: the published code's own events, and redundancy that was planted."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from eas_export.core.errors import UserError
from eas_export.search.bandit import POLICIES, Bandit, get_policy, update

EVENTS = np.load(GOLDEN / "search" / "lavin.npz")
SITES, REDUNDANT, EFFECT = 32, 12, 0.05


def test_the_update_is_the_published_one():
    lavin = get_policy("lavin-code")
    for prob, selects, losses, before, after in zip(
        *(EVENTS[k] for k in ("prob", "selects", "losses", "before", "after"))
    ):
        assert np.abs(lavin.probabilities(before.astype(np.float64)) - prob).max() < 1e-7
        assert np.abs(update(before, prob, selects, losses, lavin.rate) - after).max() < 1e-7


def test_the_search_ends_where_the_published_one_does():
    """Of its events nothing is known but what was drawn and lost."""
    bandit = Bandit(policy="lavin-code", sites=32, count=12, seed=0)
    for step, (selects, losses) in enumerate(zip(EVENTS["selects"], EVENTS["losses"])):
        bandit = bandit.learn(step, [tuple(row) for row in selects.tolist()], losses.tolist())
    assert np.abs(bandit.scores - EVENTS["final_scores"]).max() < 1e-6
    assert bandit.ranking[11::-1] == tuple(EVENTS["final_skip"]), "the least redundant of them first"
    assert bandit.chosen == tuple(sorted(EVENTS["final_skip"].tolist()))


@pytest.mark.parametrize("policy", POLICIES)
def test_planted_redundancy_is_found(policy):
    """A needed attention costs EFFECT, and every loss is off by a normal number of that size."""
    found = []
    for seed in range(20):
        random = np.random.default_rng([seed, 1])
        redundant = frozenset(random.permutation(SITES)[:REDUNDANT].tolist())
        bandit = Bandit(policy=policy, sites=SITES, count=REDUNDANT, seed=seed)
        for step in range(600):
            drawn = bandit.draw(step, 3)
            needed = np.array([len(set(sites) - redundant) for sites in drawn])
            bandit = bandit.learn(step, drawn, (1 + EFFECT * (needed + random.standard_normal(3))).tolist())
        found.append(len(redundant & set(bandit.chosen)))
    assert sorted(found)[1] >= 11, found


def test_one_event_by_hand():
    scores, p = np.zeros(4), np.full(4, 0.25)
    after = update(scores, p, np.array([[0, 1], [1, 2]]), np.array([0.0, np.log(2)]), 2.0)
    gain = 2 * 0.25 * 0.75 * 0.25  # rate p (1 - p) (1 - mean(1, 1/2))
    assert after.tolist() == [gain, 0.0, -gain, 0.0]
    assert update(scores, p, np.array([[0, 1], [1, 2]]), np.array([0.0, np.log(2)]), -2.0).tolist() == (-after).tolist()
    assert not scores.any()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_helps_is_skipped(policy):
    """Whichever way its scores go: the sites of the better subnetwork come first."""
    bandit = Bandit(policy=policy, sites=6, count=2, seed=0).learn(0, [(3, 5), (0, 1)], [0.1, 2.0])
    assert bandit.chosen == (3, 5)
    assert set(bandit.ranking[-2:]) == {0, 1}


@pytest.mark.parametrize("policy", POLICIES)
@given(st.integers(1, 12), st.integers(0, 100), st.integers(0, 1000))
def test_draws_are_sets_that_seed_and_step_decide(policy, count, seed, step):
    bandit = Bandit(policy=policy, sites=12, count=count, seed=seed)
    drawn = bandit.draw(step, 3)
    assert all(len(set(sites)) == count and set(sites) <= set(range(12)) for sites in drawn)
    assert bandit.draw(step, 3) == drawn
    assert Bandit.model_validate_json(bandit.model_dump_json()).draw(step, 3) == drawn


@pytest.mark.parametrize("policy", POLICIES)
def test_a_search_that_is_taken_up_again_goes_the_same_way(policy):
    def search(bandit: Bandit, steps: range) -> Bandit:
        for step in steps:
            drawn = bandit.draw(step, 3)
            bandit = bandit.learn(step, drawn, [sum(sites) / 20 for sites in drawn])
        return bandit

    begin = Bandit(policy=policy, sites=8, count=3, seed=5)
    half = search(begin, range(15))
    assert search(Bandit.model_validate_json(half.model_dump_json()), range(15, 30)) == search(begin, range(30))


def test_draws_follow_the_probabilities():
    """One of four sites, in shares of its softmax."""
    bandit = Bandit(policy="lavin-code", sites=4, count=1, seed=0)
    bandit = bandit.learn(0, [(0,), (1,)], [0.0, 1.0])
    counts = np.bincount([sites[0] for step in range(4000) for sites in bandit.draw(step, 1)], minlength=4) / 4000
    assert np.abs(counts - bandit.probabilities).max() < 0.03
    assert bandit.probabilities[0] > bandit.probabilities[2] == bandit.probabilities[3] > bandit.probabilities[1]


def test_entropy_falls_as_scores_part():
    bandit = Bandit(policy="lavin-code", sites=4, count=1, seed=0)
    seen = [bandit]
    for step in range(20):
        seen.append(seen[-1].learn(step, [(0,), (1,)], [0.0, 1.0]))
    assert seen[0].entropy == pytest.approx(np.log(4))
    assert all(after.entropy < before.entropy for before, after in pairwise(seen))


def test_an_unknown_policy_names_the_known():
    with pytest.raises(UserError, match=r"unknown policy .lavin-coed..*did you mean lavin-code"):
        get_policy("lavin-coed")
