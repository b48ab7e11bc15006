"""Kill builds at random moments and fill their disks: what they leave is a whole bundle or none, and the next build finishes.

    python benchmarks/interruptions.py --kills 200 --limits 60 --disks 40

Every build is of a checkpoint with two layers, and verifies. A killed one (SIGKILL) is followed by another kill or by a build that has to
finish; after each, every byte at --out is checked. `--limits` counts builds whose files may not grow beyond a random size (EFBIG), `--disks`
builds on a disk of random size that gets full (ENOSPC; a tmpfs, for which this must run as root).
"""

import argparse
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from common import write_result
from synthetic import SHAPES, write_checkpoint
from watched import eas_export

from eas_export.bundle.bundle import open_bundle
from eas_export.core.errors import UserError
from eas_export.pipeline import verify

SHAPE = replace(SHAPES["demo"], layers=2, skip=(1,), clip_blocks=4)
OPTIONS = [("--max-prompt", "100"), ("--fold", "lowrank"), ("--precision", "fp16"), ("--max-tokens", "1500")]


class Failures(list):
    def expect(self, ok: bool, what: str) -> None:
        if not ok:
            print(f"FAILED: {what}", file=sys.stderr)
            self.append(what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("kills", 200), ("limits", 60), ("disks", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance, failures = random.Random(given.seed), Failures()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = write_checkpoint(Path(scratch) / "checkpoint", SHAPE)
        kills = kill_builds(checkpoint, Path(scratch) / "killed" / "o", given.kills, chance, failures)
        limits = fill_disks(checkpoint, Path(scratch) / "limits", given.limits, chance, failures, limited)
        disks = fill_disks(checkpoint, Path(scratch) / "disks", given.disks, chance, failures, small_disk)
    figures = {"seed": given.seed, "kills": kills, "file_size_limits": limits, "full_disks": disks}
    write_result("interruptions", figures | {"failures": len(failures), "failed": list(failures)}, bars={"failures": 0})


def kill_builds(checkpoint: Path, out: Path, count: int, chance: random.Random, failures: Failures) -> dict:
    start = time.monotonic()
    finish(checkpoint, out, OPTIONS[0], failures)
    whole = time.monotonic() - start
    seen = dict.fromkeys(("nothing opened", "the old bundle was whole", "the new bundle was whole"), 0)
    finished = 1
    for number in range(count):
        option = chance.choice(OPTIONS)
        if chance.random() < 0.3:
            shutil.rmtree(out, ignore_errors=True)  # nothing to replace
        before = open_bundle(out).manifest.key if (out / "manifest.json").exists() else None
        process = subprocess.Popen(build(checkpoint, out, option), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0, whole))
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            bundle = open_bundle(out, check=True)
            kept = bundle.manifest.key == before
            seen["the old bundle was whole" if kept else "the new bundle was whole"] += 1
        except UserError as error:
            seen["nothing opened"] += 1
            failures.expect("\n" not in str(error), f"kill {number}: {error}")
        if chance.random() < 0.25:
            finish(checkpoint, out, option, failures)
            finished += 1
        if number % 20 == 19:
            print(f"{number + 1} kills, {seen}, {len(failures)} failures", file=sys.stderr, flush=True)
    return {"count": count, "builds_finished_after": finished, "seconds_of_one_build": round(whole, 1)} | seen


def finish(checkpoint: Path, out: Path, option: tuple[str, str], failures: Failures) -> None:
    """Build over whatever is there: the build succeeds, its bundle is whole and verifies, and no other file is left beside it."""
    done = subprocess.run(build(checkpoint, out, option), capture_output=True, text=True)
    failures.expect(done.returncode == 0, f"build {option}: exit {done.returncode} {done.stderr[-300:]}")
    if done.returncode == 0:
        failures.expect(verify(out, checkpoint, steps=1).ok, f"build {option}: the bundle differs")
    failures.expect(
        [p.name for p in out.parent.iterdir()] == [out.name], f"build {option}: other files are left beside the bundle"
    )


def fill_disks(checkpoint: Path, folder: Path, count: int, chance: random.Random, failures: Failures, scarce) -> dict:
    """Builds that run out of room, each repeated with more of it until it finishes."""
    refused = finished = 0
    while refused + finished < count:
        room = chance.uniform(1e3, 1e6)
        with scarce(folder, room) as place:
            for _ in range(30):
                done = place(build(checkpoint, folder / "o", chance.choice(OPTIONS)))
                if done.returncode == 0:
                    break
                refused += 1
                lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
                one = done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr
                failures.expect(one, f"room {room:.0f}: exit {done.returncode} {done.stderr[-300:]}")
                failures.expect(not (folder / "o" / "manifest.json").exists(), f"room {room:.0f}: a bundle is there")
                place.room *= 1.6
            failures.expect(done.returncode == 0, f"room {room:.0f}: the build never finished")
            finished += 1
            failures.expect(not open_bundle(folder / "o").damaged_files(), f"room {room:.0f}: the bundle is damaged")
    return {"refused": refused, "finished_after_that": finished}


class Limited:
    """Files may not grow beyond `room` bytes."""

    def __init__(self, room: float):
        self.room = room

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(self.room), int(self.room)))

        return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)


@contextmanager
def limited(folder: Path, room: float):
    with tempfile.TemporaryDirectory() as fresh:
        folder.symlink_to(fresh)
        yield Limited(room)
        folder.unlink()


class SmallDisk:
    """The folder is a disk of `room` bytes, which can be made larger."""

    def __init__(self, folder: Path, room: float):
        self.folder, self._room = folder, room
        self._mount(room, "-t", "tmpfs")

    @property
    def room(self) -> float:
        return self._room

    @room.setter
    def room(self, value: float) -> None:
        self._room = value
        self._mount(value, "-o", "remount")

    def _mount(self, room: float, *how: str) -> None:
        subprocess.run(["mount", *how, "-o", f"size={int(room)}", "tmpfs", str(self.folder)], check=True)

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(command, capture_output=True, text=True)


@contextmanager
def small_disk(folder: Path, room: float):
    folder.mkdir()
    disk = SmallDisk(folder, room)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def build(checkpoint: Path, out: Path, option: tuple[str, str]) -> list[str]:
    return eas_export("build", "--ckpt", checkpoint, "--out", out, *option, "--force", "--json")


if __name__ == "__main__":
    main()
