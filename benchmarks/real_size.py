"""Build and verify a bundle of real size on a small machine: memory, time against a plain copy, bytes written.

    python benchmarks/real_size.py --shape 7B                  fp16; 14.1 GB of checkpoint, as much for the copy, 11.9 GB of bundle
    python benchmarks/real_size.py --shape 1B
    python benchmarks/real_size.py --shape 7B --shards 2
    python benchmarks/real_size.py --shape llava-7B            fine-tuned: 12.9 GB of checkpoint, as much for the copy and the bundle
    python benchmarks/real_size.py --shape meter_vqa --precision fp32    1.4 GB of checkpoint, as much for the copy, 1.2 GB of bundle

Memory is RssAnon + RssShmem, sampled; mapped files do not count. Before each step the input files are dropped from the page cache. The
copy is `cp -r` of the checkpoint. All files are in --scratch and are removed at the end; --checkpoint uses an existing checkpoint.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import bytes_under, write_result
from meter_flops import PUBLISHED
from synthetic import SHAPES
from synthetic_llava import LLAVA_SHAPES
from synthetic_meter import SHAPES as METER_SHAPES
from watched import Watched, eas_export, forget_cached, watch

COPIES, SECONDS = 2.5, 120.0  # the bar of a build's wall time: so many times the copy's, plus so many seconds
BUILD_MEMORY = {"build_memory_bytes": 2.5e9}
# of the 7B shapes in fp16, with 12 of 32 attentions skipped; written_by_read: by the bytes of all input files
BARS_7B = BUILD_MEMORY | {"build_seconds_by_allowed": 1.0, "verify_memory_bytes": 4e9, "written_by_read": 0.9}
# of METER in fp32, which verification holds twice; written_by_needed: by the bytes of the parameters that are left
BARS_METER = BARS_7B | {"build_memory_bytes": 1.5e9, "written_by_read": 0.92, "written_by_needed": 1.01}


@dataclass(frozen=True)
class Model:
    """A model to measure: a shape, by its name in the script of this folder that makes its checkpoint.

    fold     its default fold mode
    skipped  the result's entry for the skips
    shards   files of the language model; None: no other number is possible
    options  of the build
    bars     precision -> bars; without any, the build's memory
    """

    script: str
    name: str
    skipped: object
    fold: str = "weights"
    shards: int | None = None
    options: tuple[str, ...] = ()
    bars: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def counted(shape: Any) -> str:
    return f"{len(shape.skip)} of {shape.layers}"


def meter(task: str) -> Model:
    skip = PUBLISHED[task]["10"]
    bars = {"fp32": BARS_METER, "fp16": BARS_METER | {"written_by_read": BARS_METER["written_by_read"] / 2}}
    return Model("synthetic_meter.py", task, skip, "offline", None, ("--skip", ",".join(map(str, skip))), bars)


MODELS = {
    **{
        name: Model("synthetic.py", name, counted(s), shards=s.shards, bars={"fp16": BARS_7B} if name == "7B" else {})
        for name, s in SHAPES.items()
        if name != "demo"
    },
    # LaVIN's checkpoint still has the skipped attentions; fine-tuning has removed them from LLaVA's
    **{
        f"llava-{name}": Model(
            "synthetic_llava.py",
            name,
            counted(s),
            shards=2,
            bars={"fp16": BARS_7B | {"written_by_read": 1.0}} if name == "7B" else {},
        )
        for name, s in LLAVA_SHAPES.items()
    },
    **{f"meter_{task}": meter(task) for task in METER_SHAPES},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=MODELS, default="7B")
    parser.add_argument("--shards", type=int, help="another number of model-parallel shards (LaVIN)")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp16")
    parser.add_argument("--fold", choices=["weights", "lowrank"], help="default: weights; METER's is offline")
    parser.add_argument("--checkpoint", type=Path, help="an existing checkpoint of the shape, made by its script")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    given = parser.parse_args()
    model = MODELS[given.shape]
    fold, made = given.fold or model.fold, None
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        checkpoint = given.checkpoint or Path(scratch) / "checkpoint"
        if given.checkpoint is None:
            script = str(Path(__file__).with_name(model.script))
            shards = ["--shards", str(given.shards)] if given.shards else []
            made = watch([sys.executable, script, "--shape", model.name, *shards, "--out", str(checkpoint)])
            say("checkpoint", made)
        measured = measure(checkpoint, Path(scratch), given.precision, fold, *model.options)
    name = [given.shape, given.precision, *([fold] if fold != "offline" else [])]
    name += [f"{given.shards}_shards"] if given.shards else []
    write_result(
        f"real_size_{'_'.join(name)}",
        {
            "shape": given.shape,
            "shards": given.shards or model.shards,
            "skipped": model.skipped,
            "checkpoint_memory_bytes": made and made.peak_bytes,
            "checkpoint_seconds": made and round(made.seconds, 1),
        }
        | measured,
        bars=dict(model.bars.get(given.precision, BUILD_MEMORY)),
    )


def measure(checkpoint: Path, scratch: Path, precision: str, fold: str, *more: str) -> dict:
    """more: other options of the build"""
    read = bytes_under(checkpoint)
    forget_cached(checkpoint)
    copy = watch(["cp", "-r", str(checkpoint), str(scratch / "copy")])
    say("copy", copy)
    shutil.rmtree(scratch / "copy")

    bundle, how = scratch / "bundle", ("--precision", precision, "--fold", fold, *more)
    build_again = eas_export("build", "--ckpt", checkpoint, "--out", bundle, *how, "--no-verify", "--json")
    forget_cached(checkpoint)
    built = watch(build_again)
    say("build", built)
    written = bytes_under(bundle)
    again = [watch(build_again) for _ in range(2)]  # the first one hashes the bundle, the second remembers
    forget_cached(checkpoint)
    verified = watch(eas_export("verify", bundle, "--ckpt", checkpoint, "--json"))
    say("verify", verified)
    needed = json.loads(built.output)["accounts"]["after"]["total_bytes"]
    allowed = COPIES * copy.seconds + SECONDS
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
