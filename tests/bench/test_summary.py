"""What a report says of trials that a fake clock timed: every ratio, rate and count is known beforehand."""

from itertools import pairwise

import pytest
from conftest import golden_case

from eas_export.bench.decoder import BASELINES
from eas_export.bench.roofline import work_of
from eas_export.bench.schedule import Measurements
from eas_export.bench.settings import Workload
from eas_export.bench.stages import DECODE, FOLD, FULL, PREFILL, PRODUCT, READ
from eas_export.bench.summary import MACHINE, Summary

WORKLOAD = Workload(prompt_tokens=16, new_tokens=8, batches=(1, 4), rounds=3)
STEP, FOUR = DECODE.format(1), DECODE.format(4)
SLOW = (1.0, 3.0, 1.0)  # how many times as long everything takes in each round: no ratio may depend on it
READER, SLOW_READER, MULTIPLIER = f"{READ}a", f"{READ}b", f"{PRODUCT}c"
AMOUNTS = {READER: 2_000, SLOW_READER: 2_000, MULTIPLIER: 60_000}
SECONDS = {  # of a piece, in a quiet round
    STEP: {
        "onnxruntime-weights": 0.10,
        "onnxruntime-lowrank": 0.12,
        "onnxruntime-floor": 0.08,
        "onnxruntime-unskipped": 0.20,
        "onnxruntime-plain": 0.15,
        "onnxruntime-genai": 0.45,
        "pytorch-unskipped": 0.50,
        "pytorch-published": 0.40,
        "pytorch-weights": 0.25,
    },
    FOUR: {"onnxruntime-lowrank": 0.16},
    FOLD: {"onnxruntime-weights": 1.01},
    PREFILL: {"onnxruntime-weights": 2.0, "pytorch-published": 5.0},
    FULL: {"onnxruntime-unskipped": 0.30, "onnxruntime-lowrank": 0.15},
}
BESIDE = {READER: 2.0, SLOW_READER: 4.0, MULTIPLIER: 3.0}  # 1,000 bytes and 20,000 operations per second


@pytest.fixture
def summary(bundle_of) -> Summary:
    trials = {part: {(name, part): _trials(each) for name, each in taken.items()} for part, taken in SECONDS.items()}
    for part in (STEP, FOLD, PREFILL):
        trials[part] |= {(MACHINE, probe): _trials(each) for probe, each in BESIDE.items()}
    trials[FOLD] |= {
        (name, STEP): _trials(SECONDS[STEP][name]) for name in ("onnxruntime-weights", "onnxruntime-lowrank")
    }
    trials[FULL] |= {(name, STEP): _trials(SECONDS[STEP][name]) for name in SECONDS[FULL]}
    measured = Measurements(trials, {"pytorch-weights": {FULL: "no memory"}})
    return Summary(bundle_of(golden_case("all")), WORKLOAD, measured, AMOUNTS)


def _trials(seconds: float) -> list[list[float]]:
    """Two pieces in each round, and in the last one a third that takes ten times as long."""
    return [[seconds * slow] * 2 + [10 * seconds] * (number == 2) for number, slow in enumerate(SLOW)]


def exactly(value: float) -> dict:
    return dict.fromkeys(("p10", "p50", "p90"), pytest.approx(value))


def test_claims_are_ratios_of_steps(summary):
    found = {each.name: each for each in summary.sections("onnxruntime-weights")["claims"]}
    ratios = {name: each.ratio.model_dump() for name, each in found.items()}
    assert ratios == {
        "folded against no adapters": exactly(0.10 / 0.08),
        "low-rank against no adapters": exactly(0.12 / 0.08),
        "eager as published against folded": exactly(4.0),
        "eager as published against low-rank": exactly(0.40 / 0.12),
        "onnxruntime-genai against the base model": exactly(3.0),
    }


def test_causes_add_up(summary):
    *causes, whole = summary.sections("onnxruntime-weights")["causes"]
    assert [each.name for each in causes] == ["skipping attention", "folding", "leaving eager mode"]
    assert [each.saved_seconds.p50 for each in causes] == pytest.approx([0.10, 0.15, 0.15])
    assert whole.saved_seconds.p50 == pytest.approx(sum(each.saved_seconds.p50 for each in causes))
    assert whole.ratio.model_dump() == exactly(5.0)
    assert all(before.to == after.of for before, after in pairwise(causes))


def test_each_baseline_is_compared_with_the_bundle_in_every_part_that_both_have(summary):
    found = {(each.of, each.part): each.ratio.p50 for each in summary.against("onnxruntime-weights")}
    assert found.pop(("pytorch-published", PREFILL)) == pytest.approx(2.5)
    assert found == {(name, STEP): pytest.approx(s / 0.10) for name, s in SECONDS[STEP].items() if s != 0.10}


def test_keys_and_values_that_are_gone_save_the_difference_of_differences(summary):
    kv = summary.kv()
    assert kv.saved_seconds.p50 == pytest.approx((0.30 - 0.20) - (0.15 - 0.12))
    m = summary.bundle.manifest
    per_token = 2 * m.config.kv_dim * 4 * len(m.plan.skipped)  # keys and values of the skipped layers, float32
    assert (kv.full, kv.short, kv.saved_bytes) == (m.limits.max_tokens, 24, m.limits.max_tokens * per_token)


def test_folding_pays_back_after_its_cost_over_what_a_step_saves(summary):
    found = summary.break_even()
    assert found.tokens == 51  # 50.5
    assert found.saved_per_step_seconds.p50 == pytest.approx(0.02)


def test_folding_that_saves_less_than_the_spread_is_not_said_to_pay_back(summary):
    summary.measured.trials[FOLD]["onnxruntime-lowrank", STEP] = [
        [0.2],
        [0.2],
        [0.09],
    ]  # less than a folded step in one round
    found = summary.break_even()
    assert found.tokens is None and found.saved_per_step_seconds.p10 < 0


def test_folding_that_saves_nothing_never_pays_back(summary):
    summary.measured.trials[FOLD]["onnxruntime-lowrank", STEP] = _trials(0.09)
    assert summary.break_even().tokens is None


def test_rates_are_those_of_the_best_probe(summary):
    rates = summary.rates()
    assert rates.read_bytes_per_second.p50 == pytest.approx(1_000)
    assert rates.product_flops_per_second.p50 == pytest.approx(20_000)
    assert rates.read_bytes_per_second.p10 < 500  # the slow round did a third


def test_shares_of_the_limit_are_made_round_by_round(summary):
    roofs = {roof.part: roof for roof in summary.roofline("onnxruntime-weights")}
    assert set(roofs) == {PREFILL, FOLD, STEP}  # of the bundle itself, and beside probes
    work, roof = work_of(summary.bundle, "decode", {"B": 1, "T": 24}), roofs[STEP]
    memory, arithmetic = work.bytes / 1_000, work.flops / 20_000
    assert (roof.bytes, roof.flops, roof.bound) == (work.bytes, work.flops, "memory")
    assert roof.least_seconds == pytest.approx(memory) and memory > arithmetic
    assert roof.share.model_dump() == exactly(memory / 0.10)


def test_tokens_per_second_count_all_rows(summary):
    result = summary.result("onnxruntime-lowrank", BASELINES["onnxruntime-lowrank"])
    assert {each.rows: each.tokens_per_second.p50 for each in result.steady} == pytest.approx(
        {1: 1 / 0.12, 4: 4 / 0.16}
    )
    assert [*result.parts] == [FULL] and result.parts[FULL].pieces == 7


def test_what_was_refused_is_said(summary):
    assert summary.result("pytorch-weights", BASELINES["pytorch-weights"]).refused == {FULL: "no memory"}


def test_nothing_comes_of_nothing(bundle_of):
    sections = Summary(bundle_of(golden_case("all")), WORKLOAD, Measurements(), {}).sections("onnxruntime-weights")
    assert not any(sections.values())
