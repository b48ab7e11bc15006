"""The demo's models from several seeds: accuracy with attentions skipped, chosen by the bandit and at random, with adapters and without.

    python benchmarks/demo_training.py     three seeds, each in a process of one thread

Random skips get what the bandit's get: adapters of the same size, as many steps, the same questions. The bars: EAS within one point of
the model with every attention, and above random skips by more than two standard errors; the bundles answer every question as PyTorch does;
one seed under 30 minutes. More questions are asked than by `eas-export demo`, about the same pictures: the accuracy over its 800 is known
to half a point only. Two standard errors of three seeds are less than a 95 % interval (which takes 4.3), and do not include the choice of
pictures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from common import write_result

from eas_export.core.plan import SkipPlan
from eas_export.core.progress import Progress
from eas_export.demo import RECIPE, digits, train
from eas_export.demo.compare import BARE, EAS, FULL, answer, in_pytorch, models_of
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.pipeline import build
from eas_export.search import search

SEEDS = (0, 1, 2)
BY_CHANCE = 4  # random skip lists of each seed
ASKED = 4000  # questions, of which the demo's are the first
CHANCE = "by chance"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="run this seed only, and print its figures")
    parser.add_argument("--work", type=Path, help="folder for the files, which are kept; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        if given.seed is not None:
            print(json.dumps(figures_of(given.seed, work / str(given.seed))))
            return
        command = [sys.executable, __file__, "--work", str(work), "--seed"]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            runs = [
                pool.submit(subprocess.run, [*command, str(seed)], env=alone, check=True, stdout=subprocess.PIPE)
                for seed in SEEDS
            ]
        seeds = [json.loads(run.result().stdout.splitlines()[-1]) for run in runs]
    right = {name: round(mean(seed["right"][name] for seed in seeds), 4) for name in seeds[0]["right"]}
    above = [100 * (seed["right"][CHANCE] - seed["right"][EAS]) for seed in seeds]
    error = stdev(above) / len(above) ** 0.5
    figures = {
        "right": right,
        "points_lost": round(100 * (right[FULL] - right[EAS]), 2),
        "chance_points_above": round(mean(above), 2),
        "chance_points_above_error": round(error, 2),
        "chance_points_above_at_most": round(mean(above) + 2 * error, 2),
        "bare_points_above": round(100 * (right[BARE] - right[EAS]), 2),
        "share_kept": round(1 - seeds[0]["skipped_share"], 4),
        "answers_that_differ": sum(seed["answers_that_differ"] for seed in seeds),
        "training_minutes": round(max(seed["seconds"] for seed in seeds) / 60, 1),
        "seeds": seeds,
    }
    bars = {
        "points_lost": 1.0,
        "chance_points_above_at_most": 0,
        "bare_points_above": -5,
        "share_kept": 2 / 3,
        "answers_that_differ": 0,
        "training_minutes": 30,
    }
    write_result("demo_training", figures, bars)


def figures_of(seed: int, work: Path) -> dict:
    begin, kept = time.monotonic(), work / "base_seconds.json"  # a finished base is not trained again
    if not kept.exists():
        train.make_base(work, seed, Progress())
        kept.write_text(json.dumps(round(time.monotonic() - begin, 1)))
    report = train.make_eas(work, seed, Progress())
    seconds = json.loads(kept.read_text()) + report.seconds
    bundles = []
    for more in ({}, {"fold": "lowrank", "max_batch": 32}):
        out = work / f"bundle{len(bundles)}"
        bundles.append(build(work / "checkpoint", out, recipe=RECIPE, verify=False, **more).bundle)
    limits, plan = bundles[1].manifest.limits, bundles[0].manifest.plan
    base, eas = (load_checkpoint(Sources(work / name)) for name in ("base", "checkpoint"))
    models = models_of(base, eas, bundles)
    lists, random = [], np.random.default_rng(seed)
    options = {name: value for name, value in train.SEARCH.items() if name != "count"} | {"device": "cpu"}
    options["tune_steps"] += options["steps"]
    for number in range(BY_CHANCE):
        skipped = sorted(random.choice(plan.sites, len(plan.skipped), replace=False).tolist())
        folder = work / f"chance{number}"
        search(work / "base", work / "train.jsonl", folder, skip=",".join(map(str, skipped)), seed=seed, **options)
        lists.append(skipped)
        chance = SkipPlan(sites=plan.sites, skipped=tuple(skipped), origin=CHANCE)
        models.append(in_pytorch(f"{CHANCE} {number}", load_checkpoint(Sources(folder)), chance, limits))
    asked = digits.write_questions(work / "asked", "questions", digits.TRAIN, digits.ALL, ASKED, seed=0)
    answered = {each.model: each for each in answer(models, asked, eas, Progress())}
    right = {name: round(each.right, 4) for name, each in answered.items() if not name.startswith(CHANCE)}
    right[CHANCE] = round(mean(each.right for name, each in answered.items() if name.startswith(CHANCE)), 4)
    same = [each for name, each in answered.items() if name.startswith(EAS)]
    return {
        "seed": seed,
        "right": right,
        "questions": same[0].questions,
        "skipped": list(plan.skipped),
        "skipped_share": len(plan.skipped) / plan.sites,
        "by_chance": [
            {"skipped": one, "right": round(answered[f"{CHANCE} {n}"].right, 4)} for n, one in enumerate(lists)
        ],
        "answers_that_differ": sum(round((1 - each.as_eas) * each.questions) for each in same),
        "loss": report.held_out.model_dump(),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
