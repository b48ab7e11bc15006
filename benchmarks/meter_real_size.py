"""Build and verify a METER bundle of the published size on a small machine: memory, time against a plain copy, bytes written.

    python benchmarks/meter_real_size.py                     vqa in fp32; 1.4 GB of checkpoint, as much for the copy, 1.2 GB of bundle
    python benchmarks/meter_real_size.py --precision fp16

What is measured, and how, is real_size.py's. The skip list is the published one of ten indices, nine attentions. Verification holds
two networks in float32, the reference and what is compared with it, and the graph's weights stay mapped.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from common import write_result
from meter_flops import PUBLISHED
from real_size import measure, say
from synthetic_meter import SHAPES
from watched import watch

# of the vqa task in fp32; bytes written by the bytes of the checkpoint, and by those of the parameters that are left
BARS = {
    "build_memory_bytes": 1.5e9,
    "build_seconds_by_allowed": 1.0,
    "verify_memory_bytes": 4e9,
    "written_by_read": 0.92,
    "written_by_needed": 1.01,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=SHAPES, default="vqa")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32")
    parser.add_argument("--checkpoint", type=Path, help="a folder that synthetic_meter.py made")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    given = parser.parse_args()
    skip = PUBLISHED[given.task]["10"]
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        checkpoint, made = given.checkpoint, None
        if checkpoint is None:
            checkpoint = Path(scratch) / "checkpoint"
            script = str(Path(__file__).with_name("synthetic_meter.py"))
            made = watch([sys.executable, script, "--shape", given.task, "--out", str(checkpoint)])
            say("checkpoint", made)
        listed = ",".join(map(str, skip))
        measured = measure(checkpoint, Path(scratch), given.precision, "offline", "--skip", listed)
    halved = {"written_by_read": BARS["written_by_read"] / 2} if given.precision == "fp16" else {}
    write_result(
        f"real_size_meter_{given.task}_{given.precision}",
        {
            "shape": f"meter {given.task}",
            "skipped": skip,
            "checkpoint_memory_bytes": made and made.peak_bytes,
            "checkpoint_seconds": made and round(made.seconds, 1),
        }
        | measured,
        bars=BARS | halved,
    )


if __name__ == "__main__":
    main()
