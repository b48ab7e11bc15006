"""How long the demo's bundle takes to verify, as a whole process: the ledger alone, and with known faults planted, too.

    python benchmarks/verify_demo.py

The bar: under 30 s on 2 cores (the slower of 3 runs), faults included.
"""

import json
import tempfile
from pathlib import Path

from common import write_result
from watched import eas_export, watch

from eas_export.demo import CHECKPOINT, RECIPE
from eas_export.pipeline import build

RUNS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "demo.bundle"
        build(CHECKPOINT, bundle, recipe=RECIPE, verify=False)
        verify = eas_export("verify", bundle, "--ckpt", CHECKPOINT, "--json")
        plain = [watch(verify) for _ in range(RUNS)]
        faults = [watch([*verify, "--negative-controls"]) for _ in range(RUNS)]
    report = json.loads(faults[-1].output)
    figures = {
        "seconds": round(max(run.seconds for run in plain), 1),
        "seconds_with_faults": round(max(run.seconds for run in faults), 1),
        "runs": RUNS,
        "steps": [step["name"] for step in report["steps"]],
        "outputs_compared": sum(len(lines) for step in report["steps"] for lines in step["cases"].values()),
        "faults_found": sum(control["ok"] and not control["why_not"] for control in report["controls"]),
        "faults_missed": sum(not control["ok"] for control in report["controls"]),
        "shortcuts": {name: _range(report, name) for name in dict.fromkeys(s["name"] for s in report["shortcuts"])},
    }
    write_result("verify_demo", figures, bars={"seconds": 30, "seconds_with_faults": 30, "faults_missed": 0})


def _range(report: dict, name: str) -> list[float]:
    """The smallest and largest error of a published deviation over the prompts, in units of the logits' standard deviation."""
    found = [each["relative"] for each in report["shortcuts"] if each["name"] == name]
    return [round(min(found), 2), round(max(found), 2)]


if __name__ == "__main__":
    main()
