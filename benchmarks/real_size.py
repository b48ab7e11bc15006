"""Build and verify a bundle of real size on a small machine: memory, time against a plain copy, bytes written.

    python benchmarks/real_size.py --shape 7B                  fp16; 14.1 GB of checkpoint, as much for the copy, 11.9 GB of bundle
    python benchmarks/real_size.py --shape 1B
    python benchmarks/real_size.py --shape 7B --shards 2
    python benchmarks/real_size.py --shape llava-7B            fine-tuned: 12.9 GB of checkpoint, as much for the copy and the bundle

Memory is RssAnon + RssShmem, sampled; mapped files do not count. Before each step the input files are dropped from the page cache. The
copy is `cp -r` of the checkpoint. Everything lies in --scratch and is removed at the end; --checkpoint takes one that is there.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import write_result
from synthetic import SHAPES
from synthetic_llava import LLAVA_SHAPES
from watched import Watched, eas_export, forget_cached, watch

COPIES, MINUTES = 2.5, 120.0  # the bar of a build's wall time: so many copies and so many seconds
BUILD_MEMORY = 2.5e9
# of the 7B shapes in fp16, of which 12 in 32 attentions are skipped
BARS_7B = {"build_memory_bytes": BUILD_MEMORY, "build_seconds_by_allowed": 1.0, "verify_memory_bytes": 4e9}


@dataclass(frozen=True)
class Model:
    """What is measured: a shape, by its name in the script of this folder that makes its checkpoint.

    shards   files of the language model
    skipped  attentions, of so many layers
    most     bytes written by the bytes of all input files, at most
    """

    script: str
    name: str
    shards: int
    skipped: str
    most: float


def models(script: str, shapes: dict, shards: Callable[[Any], int], most: float, prefix: str = "") -> dict[str, Model]:
    return {
        f"{prefix}{name}": Model(script, name, shards(s), f"{len(s.skip)} of {s.layers}", most)
        for name, s in shapes.items()
        if name != "demo"
    }


# LaVIN's checkpoint still has the attentions that are skipped; fine-tuning has taken them out of LLaVA's
MODELS = {
    **models("synthetic.py", SHAPES, lambda shape: shape.shards, 0.9),
    **models("synthetic_llava.py", LLAVA_SHAPES, lambda shape: 2, 1.0, "llava-"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=MODELS, default="7B")
    parser.add_argument("--shards", type=int, help="another number of model-parallel shards (LaVIN)")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp16")
    parser.add_argument("--fold", choices=["weights", "lowrank"], default="weights")
    parser.add_argument("--checkpoint", type=Path, help="one that the shape's script made")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    given = parser.parse_args()
    model = MODELS[given.shape]
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        checkpoint, made = given.checkpoint, None
        if checkpoint is None:
            checkpoint = Path(scratch) / "checkpoint"
            script = str(Path(__file__).with_name(model.script))
            shards = ["--shards", str(given.shards)] if given.shards else []
            made = watch([sys.executable, script, "--shape", model.name, *shards, "--out", str(checkpoint)])
            say("checkpoint", made)
        measured = measure(checkpoint, Path(scratch), given.precision, given.fold)
    shards = f"_{given.shards}_shards" if given.shards else ""
    write_result(
        f"real_size_{given.shape}_{given.precision}_{given.fold}{shards}",
        {
            "shape": given.shape,
            "shards": given.shards or model.shards,
            "skipped": model.skipped,
            "checkpoint_memory_bytes": made and made.peak_bytes,
            "checkpoint_seconds": made and round(made.seconds, 1),
        }
        | measured,
        bars={"build_memory_bytes": BUILD_MEMORY}
        | (BARS_7B | {"written_by_read": model.most} if model.name == "7B" and given.precision == "fp16" else {}),
    )


def measure(checkpoint: Path, scratch: Path, precision: str, fold: str, *more: object) -> dict:
    """more: other options of the build"""
    read = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    forget_cached(checkpoint)
    copy = watch(["cp", "-r", str(checkpoint), str(scratch / "copy")])
    say("copy", copy)
    shutil.rmtree(scratch / "copy")

    bundle, how = scratch / "bundle", ("--precision", precision, "--fold", fold, *more)
    build_again = eas_export("build", "--ckpt", checkpoint, "--out", bundle, *how, "--no-verify", "--json")
    forget_cached(checkpoint)
    built = watch(build_again)
    say("build", built)
    written = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    again = [watch(build_again) for _ in range(2)]  # the first one hashes the bundle, the second remembers
    forget_cached(checkpoint)
    verified = watch(eas_export("verify", bundle, "--ckpt", checkpoint, "--json"))
    say("verify", verified)
    needed = json.loads(built.output)["accounts"]["after"]["total_bytes"]
    allowed = COPIES * copy.seconds + MINUTES
    return {
        "read_bytes": read,
        "written_bytes": written,
        "passed_to_write_bytes": built.written_bytes,
        "needed_bytes": needed,
        "written_by_needed": round(written / needed, 4),
        "written_by_read": round(max(written, built.written_bytes) / read, 4),
        "copy_seconds": round(copy.seconds, 1),
        "build_seconds": round(built.seconds, 1),
        "build_seconds_allowed": round(allowed, 1),
        "build_seconds_by_allowed": round(built.seconds / allowed, 3),
        "build_memory_bytes": built.peak_bytes,
        "second_build_seconds": [round(each.seconds, 1) for each in again],
        "verify_seconds": round(verified.seconds, 1),
        "verify_memory_bytes": verified.peak_bytes,
        "verdict": json.loads(verified.output)["verdict"],
    }


def say(what: str, seen: Watched) -> None:
    print(f"{what}: {seen.seconds:.1f} s, {seen.peak_bytes / 1e9:.2f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()
