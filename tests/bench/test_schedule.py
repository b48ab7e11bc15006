"""Trials and processes: all baselines run equally often; one that fails or crashes is left out, with the reason, and the others go on."""

import os
import signal

import pytest
from conftest import golden_case

from eas_export.bench import schedule as schedule_module
from eas_export.bench.child_process import Refused, started
from eas_export.bench.schedule import TimedPart, run_schedule
from eas_export.bench.settings import Workload
from eas_export.bench.stages import READ, Part
from eas_export.bench.timing import WARM
from eas_export.bench.worker import Worker
from eas_export.core.errors import InternalError
from eas_export.core.progress import Progress

WORKLOAD = Workload(prompt_tokens=4, new_tokens=2, rounds=2)


class Listed:
    """A child process that records the order of requests, and fails when it is told to."""

    def __init__(self, name: str, order: list[str], fails: str = "", parts: tuple[str, ...] = ("step",)):
        self.name, self.order, self.fails, self.parts = name, order, fails, dict.fromkeys(parts)

    def ask(self, request: dict) -> dict:
        ((kind, part),) = request.items()
        if f"{kind} {part}" == self.fails:
            raise Refused("no memory")
        if kind == "trial":
            self.order.append(self.name)
        return {"seconds": [1.0], "disk_reads": 2}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(schedule_module, "BETWEEN", 0)


def test_each_baseline_runs_one_trial_in_each_round_in_changing_order():
    order: list[str] = []
    measured = run_schedule([Listed(name, order) for name in "abc"], [TimedPart("step", 6)], Progress())
    rounds = [order[at : at + 3] for at in range(0, 18, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds) and len(set(map(tuple, rounds))) > 1
    assert measured.trials == {"step": {(name, "step"): [[1.0]] * 6 for name in "abc"}}
    assert measured.disk_reads == {"a": 12, "b": 12, "c": 12}


def test_a_part_that_no_baseline_has_is_left_out():
    assert run_schedule([Listed("a", [])], [TimedPart("fold", 3, beside=("step",))], Progress()).trials == {}


@pytest.mark.parametrize("fails", ["prepare step", "trial step"])
def test_a_baseline_that_fails_in_a_part_is_left_out_of_it_with_the_reason(fails):
    children = [Listed("a", []), Listed("b", [], fails, ("step", "fold"))]
    measured = run_schedule(children, [TimedPart("step", 2), TimedPart("fold", 2)], Progress())
    assert measured.refused == {"b": {"step": "no memory"}}
    assert set(measured.trials["step"]) == {("a", "step")} and set(measured.trials["fold"]) == {("b", "fold")}


def test_a_process_answers_and_holds_what_was_prepared(bundle_of, tmp_path):
    with started("machine", tmp_path) as child:
        child.open("machine", bundle_of(golden_case("all")).path, WORKLOAD)
        part = next(name for name in child.parts if name.startswith(READ))
        assert child.parts[part] > 1e6 and child.seconds > 0
        child.ask({"prepare": part})
        assert all(seconds > 0 for seconds in child.ask({"trial": part})["seconds"])
        memory = child.ask({"memory": True})
        assert memory["private_bytes"] >= child.parts[part] and memory["device_bytes"] is None
        child.ask({"drop": True})
        with pytest.raises(
            InternalError, match=r"(?s)ended with 1:.*Traceback.*KeyError"
        ):  # our bug, with its traceback
            child.ask({"trial": part})


def test_a_process_that_was_killed_is_refused(bundle_of, tmp_path):
    with started("machine", tmp_path) as child:
        child.open("machine", bundle_of(golden_case("all")).path, WORKLOAD)
        os.kill(child._process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(Refused, match="out of memory"):
                child.ask({"memory": True})


@pytest.mark.parametrize("lasting, runs", [(False, 2 * WARM), (True, WARM)])
def test_what_works_on_the_same_memory_again_is_warmed_once(lasting, runs):
    ran: list[str] = []
    worker = Worker({"probe": Part(lambda: lambda: ran.append("probe"), lasting=lasting)})
    for _ in range(2):
        worker.answer({"prepare": "probe"})
        worker.answer({"drop": True})
    assert len(ran) == runs
