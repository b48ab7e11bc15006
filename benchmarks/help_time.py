"""How long `eas-export --help` takes, as a whole process: it must import nothing heavy.

    python benchmarks/help_time.py

The bar: under 0.5 s (median of 20 runs after one warm-up).
"""

import statistics
import subprocess
import time

from common import write_result
from watched import eas_export

COMMAND = eas_export("--help")
RUNS = 20


def main() -> None:
    seconds = []
    for _ in range(RUNS + 1):
        start = time.monotonic()
        subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - start)
    counted = seconds[1:]
    figures = {"seconds": round(statistics.median(counted), 3), "slowest_seconds": round(max(counted), 3), "runs": RUNS}
    write_result("help_time", figures, bars={"seconds": 0.5})


if __name__ == "__main__":
    main()
