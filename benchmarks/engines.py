"""Build TensorRT-RTX engines of a model of real size on a machine without a GPU: seconds, memory, bytes.

    python benchmarks/engines.py --shape 1B                          the bar: 5 minutes and 2 GB on 2 cores
    python benchmarks/engines.py --shape 7B                          12.5 GB of bundle in --scratch; the same bars
    python benchmarks/engines.py --shape 1B --engine-weights embedded

Measured is a second build into the same folder, in which only the engines are new: weights and graphs are reused. Bound engines never
read the large weights, which are zeros here; embedded ones get random numbers (equal tensors are stored once). Engines are only built: running
them takes a GPU.
"""

import argparse
import json
import tempfile
from pathlib import Path

from common import write_result
from synthetic import SHAPES, write_checkpoint
from watched import eas_export, watch

BARS = {"bound": {"engine_seconds": 300, "peak_memory_bytes": 2e9}, "embedded": {"engine_seconds": 300}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1B")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp16")
    parser.add_argument("--fold", choices=["weights", "lowrank"], default="weights")
    parser.add_argument("--engine-weights", choices=["bound", "embedded"], default="bound")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        checkpoint = write_checkpoint(
            Path(scratch) / "checkpoint", SHAPES[given.shape], skeleton=given.engine_weights == "bound"
        )
        out = Path(scratch) / "bundle"
        build = ("build", "--ckpt", checkpoint, "--out", out, "--precision", given.precision, "--fold", given.fold)
        watch(eas_export(*build, "--no-verify", "--json"))
        engines = ("--backend", "tensorrt-rtx", "--engine-weights", given.engine_weights)
        seen = watch(eas_export(*build, *engines, "--force", "--no-verify", "--json"))
        parsed = json.loads(watch(eas_export("check", out, "--json"), expect=(0, 1)).output)["graphs"]
    built = {record["engine"]["graph"]: record for record in json.loads(seen.output)["engines"].values()}
    first = next(iter(built.values()))["engine"]["target"]
    write_result(
        f"engines_{given.shape}_{given.precision}_{given.fold}_{given.engine_weights}",
        {
            "shape": given.shape,
            "built_by": f"{first['backend']} {first['version']}",
            "compute_capabilities": first["compute_capabilities"],
            "run": "built, not run here",
            "graphs": {
                name: {
                    "seconds": record["engine"]["seconds"],
                    "bytes": record["bytes"],
                    "attention": record["engine"]["attention"],
                    "attentions": parsed[name]["attentions"],
                    "attentions_fused": parsed[name]["fused"],
                    "caches_in_place": parsed[name]["in_place"],
                    "layers": len(parsed[name]["layers"]),
                }
                for name, record in built.items()
            },
            "engine_seconds": round(sum(record["engine"]["seconds"] for record in built.values()), 1),
            "engine_bytes": sum(record["bytes"] for record in built.values()),
            "command_seconds": round(seen.seconds, 1),
            "peak_memory_bytes": seen.peak_bytes,
        },
        bars=BARS[given.engine_weights],
    )


if __name__ == "__main__":
    main()
