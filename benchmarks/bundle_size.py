"""Build a bundle of a synthetic checkpoint of real size: its bytes against the bytes of the parameters that are still needed.

    python benchmarks/bundle_size.py --shape 1B --precision fp16

The bar: at most 1.02, adapters counted, however many graphs point into the one store. The 1B shape takes 2.9 GB of disk for the
checkpoint and 2.5 GB for the bundle, both in --scratch and removed at the end.
"""

import argparse
import tempfile
import time
from pathlib import Path

from common import bytes_under, write_result
from synthetic import SHAPES, write_checkpoint

from eas_export.pipeline import build
from eas_export.system.machine import peak_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1B")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp16")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = write_checkpoint(Path(scratch) / "checkpoint", SHAPES[given.shape])
        read = bytes_under(folder)
        start = time.monotonic()
        result = build(folder, Path(scratch) / "bundle", precision=given.precision, verify=False)
        seconds = time.monotonic() - start
        files = {
            str(p.relative_to(result.bundle.path)): p.stat().st_size
            for p in result.bundle.path.rglob("*")
            if p.is_file()
        }
    needed = result.accounts.after.total_bytes
    write_result(
        f"bundle_size_{given.shape}_{given.precision}",
        {
            "shape": given.shape,
            "parameters_before": result.accounts.before.total_parameters,
            "parameters_after": result.accounts.after.total_parameters,
            "checkpoint_bytes": read,
            "needed_bytes": needed,
            "bundle_bytes": sum(files.values()),
            "ratio": round(sum(files.values()) / needed, 4),
            "files": files,
            "build_seconds": round(seconds, 1),
            "peak_memory_bytes_with_the_checkpoints_making": peak_memory(),
        },
        bars={"ratio": 1.02},
    )


if __name__ == "__main__":
    main()
