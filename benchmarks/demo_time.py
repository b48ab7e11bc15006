"""How long `eas-export demo` takes, as a whole process, when everything is installed.

    python benchmarks/demo_time.py

The bar: under 2 minutes on 2 cores (the slower of 2 runs).
"""

import json
from tempfile import TemporaryDirectory

from common import write_result
from watched import eas_export, watch

RUNS = 2


def main() -> None:
    with TemporaryDirectory() as scratch:
        runs = [watch(eas_export("demo", "--json", "--out", f"{scratch}/{n}")) for n in range(RUNS)]
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
