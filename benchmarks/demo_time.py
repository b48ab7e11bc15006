"""How long `eas-export demo` takes, as a whole process, with its packages installed; what it prints goes to results/demo.txt.

    python benchmarks/demo_time.py

The bar: under 2 minutes on 2 cores (the slower of 2 runs).
"""

import json
import os
from contextlib import chdir
from tempfile import TemporaryDirectory

from common import RESULTS, write_result
from watched import eas_export, watch

RUNS = 2


def main() -> None:
    with TemporaryDirectory() as scratch, chdir(scratch):
        os.environ["COLUMNS"] = "80"
        printed = watch(eas_export("demo")).output
        runs = [watch(eas_export("demo", "--json", "--out", f"demo-{n}")) for n in range(RUNS)]
    (RESULTS / "demo.txt").write_text(printed, "utf-8")
    answers = json.loads(runs[-1].output)["answers"]
    figures = {
        "seconds": round(max(run.seconds for run in runs), 1),
        "runs": RUNS,
        "questions": answers[0]["questions"],
        "models": [each["model"] for each in answers],
    }
    write_result("demo_time", figures, bars={"seconds": 120})


if __name__ == "__main__":
    main()
