"""How long a build takes from the shell, against a commit from before graphs were recorded: the same command, alternating, in one run.

    python benchmarks/build_time.py

The model is a golden case with tiny weights. The commit is checked out in a git worktree and runs in the same environment. The bar: a
quarter of its time, with and without verification, by the median of the rounds' ratios.
"""

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from common import write_result
from watched import eas_export

HERE = Path(__file__).resolve().parents[1]
GOLDEN = HERE / "tests" / "golden" / "lavin" / "first"
BEFORE = "7f1cfad"
OPTIONS = {"without verify": ("--no-verify",), "with verify": ()}


def timed_build(checkout: Path, options: tuple[str, ...]) -> dict[str, float]:
    """Wall and CPU seconds of one build by a checkout's code, child processes included."""
    with tempfile.TemporaryDirectory() as scratch:
        command = eas_export("build", "--ckpt", GOLDEN, "--out", Path(scratch) / "bundle", *options)
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
        seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    figures: dict = {"rounds": given.rounds, "before": BEFORE, "builds": {}}
    with tempfile.TemporaryDirectory() as scratch:
        old = Path(scratch) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(old), BEFORE], cwd=HERE, check=True)
        try:
            for name, options in OPTIONS.items():
                rounds = [(timed_build(HERE, options), timed_build(old, options)) for _ in range(given.rounds)]
                for kind in ("seconds", "cpu_seconds"):
                    ratio = statistics.median(now[kind] / before[kind] for now, before in rounds)
                    figures[f"{name}, {kind.replace('_', ' ')} against {BEFORE}"] = round(ratio, 3)
                sides = zip(("now", "before"), zip(*rounds))
                figures["builds"][name] = {
                    side: {kind: round(statistics.median(run[kind] for run in runs), 2) for kind in runs[0]}
                    for side, runs in sides
                }
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=HERE, check=True)
    write_result("build_time", figures, bars={f"{name}, seconds against {BEFORE}": 0.25 for name in OPTIONS})


if __name__ == "__main__":
    main()
