"""Fuzzing: damaged checkpoints, bundles, recipes and inputs are accepted or refused, and nothing else happens.

    python benchmarks/fuzz.py [--cases 50000] [--seed N]

Each case depends on its target's name and a number only, counted from --seed; the test suite runs the first 500 (tests/fuzzing.py
says what is damaged, how, and what counts as a failure). The bars: no failure, and no case above 10 s.
"""

import argparse
import resource
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path

from common import write_result

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from fuzz_guard import HANG_SECONDS
from fuzzing import CHECKPOINT, Fuzzer

from eas_export.pipeline import build
from eas_export.system.machine import peak_memory

MEMORY = 24 << 30  # bytes of addresses, most of them for libraries: a file that needs more raises MemoryError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0, help="the first case's number")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of libraries, about damage that they tolerate
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(CHECKPOINT, Path(folder) / "bundle", verify=False).bundle
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        fuzzer, targets, start = Fuzzer(Path(folder), bundle), {}, time.monotonic()
        for name, cases in fuzzer.shares(options.cases).items():
            targets[name] = fuzzer.run(name, range(options.seed, options.seed + cases))
            print(f"{name}: {cases} cases, {len(targets[name].failures)} failures", file=sys.stderr, flush=True)
        seconds = time.monotonic() - start
    failures = [failure for tally in targets.values() for failure in tally.failures]
    figures = {
        "cases": sum(tally.cases for tally in targets.values()),
        "refused": sum(tally.refused for tally in targets.values()),
        "accepted": sum(tally.accepted for tally in targets.values()),
        "failures": len(failures),
        "slowest_seconds": round(max(tally.slowest_seconds for tally in targets.values()), 2),
        "seconds": round(seconds),
        "peak_memory_bytes": peak_memory(),
        "first_failures": failures[:20],
        "targets": {
            name: asdict(tally) | {"slowest_seconds": round(tally.slowest_seconds, 2), "failures": len(tally.failures)}
            for name, tally in targets.items()
        },
    }
    write_result("fuzz", figures, bars={"failures": 0, "slowest_seconds": HANG_SECONDS})


if __name__ == "__main__":
    main()
