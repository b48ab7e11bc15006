"""A model of real shape with random weights on one NVIDIA GPU: `eas-export build`, `verify --device cuda` and `bench --device cuda`.

    python benchmarks/gpu.py --work DIR                    7B in fp16: 27 GB of disk, and up to 100 GB of the GPU's memory
    python benchmarks/gpu.py --work DIR --only "bench others,bench tensorrt"        these steps, and what they need
    python benchmarks/gpu.py --work DIR --device cpu --shape demo --precision fp32  the same way on a CPU

Regime: a decode step of few rows reads every weight once and computes little with it, so memory bandwidth bounds it; a prefill computes
with each weight for every token of the prompt, so arithmetic bounds it. An adapter adds few bytes but small kernels, whose launches a CUDA
graph hides, so PyTorch's step is timed as a CUDA graph, too. Timing: eas_export/bench/timing.py and eas_export/bench/stages.py.

`plan` lists the steps by importance; each runs in its own process. A step is not started where the rest of --minutes is too short for it, and
is ended where it takes far too long. After each step the results so far are written to DIR/gpu_<shape>_<precision>_<prompt>.json, and with a
GPU to results/: the reports that `--json` prints, or why a step was not run. A second run with the same DIR goes on where the first ended. A
bundle that differs from the float32 reference is not timed. The bar: none differs.

--wheels DIR has packages that the machine lacks. They are installed without a network and without dependencies, into a folder that is
first on the import path. To fetch one: pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 -d DIR NAME
Where a transfer is limited to 64 MiB: `split -b 60M X.whl X.whl.` makes X.whl.aa, X.whl.ab and so on, which go into DIR in place of X.whl and
are joined in the order of their names.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from os import environ, pathsep
from pathlib import Path

from common import RESULTS, environment
from watched import eas_export

PACKAGES = ("torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
SYNTHETIC = str(Path(__file__).with_name("synthetic.py"))
CHECKPOINT_GB = {"demo": 0.0, "1B": 3.2, "7B": 14.1, "13B": 26.7}


@dataclass(frozen=True)
class Step:
    """A process that prints a report in JSON.

    command     `eas-export` and its arguments, or a script and its
    seconds     that it takes, roughly
    needs       steps that have to be done
    checked_by  the step whose report must not say that the bundle differs
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    needs: tuple[str, ...] = ()
    checked_by: str = ""

    def reason_against(self, records: dict[str, dict], left: float) -> str | None:
        """Why it is not started with so many seconds left. records: of the steps before it, by name"""
        if lacking := [name for name in self.needs if "not_run" in records[name]]:
            return f"the step needs {lacking[0]!r}, which was not run"
        if self.checked_by and verdict(records[self.checked_by]) == "differs":
            return f"{self.checked_by!r} says that the bundle differs"
        return (
            f"the step takes about {self.seconds:.0f} s, and {max(0, left):.0f} s were left"
            if self.seconds > left
            else None
        )


def plan(asked: argparse.Namespace, gpu: dict | None) -> list[Step]:
    """The most important steps first. Seconds are for 16 cores and a GPU; most of them go into reading and writing the weights."""
    checkpoint = str(asked.work / f"checkpoint-{asked.shape}")
    where, one_row = ("--device", asked.device), ("--batch", "1")

    def seconds(per_gb: float) -> float:
        return 10 + per_gb * CHECKPOINT_GB[asked.shape]

    def place(bundle: str) -> str:
        return str(asked.work / f"{bundle}-{asked.shape}-{asked.precision}-{asked.prompt}")

    def build(bundle: str, per_gb: float, *more: str, needs: str = "build weights") -> Step:
        limits = ("--max-prompt", str(asked.prompt), "--max-tokens", str(asked.prompt + 128))
        how = ("--ckpt", checkpoint, "--out", place(bundle), "--precision", asked.precision, *limits, *more)
        return Step(
            f"build {bundle}", ("eas-export", "build", *how, "--no-verify", "--json"), seconds(per_gb), (needs,)
        )

    def verify(bundle: str, *backends: str) -> Step:
        how = ("--ckpt", checkpoint, *(word for name in backends for word in ("--backend", name)), *where)
        command = ("eas-export", "verify", place(bundle), *how, "--json")
        return Step(f"verify {bundle}", command, seconds(5), (f"build {bundle}",))

    def bench(bundle: str, per_gb: float, against: list[str], *more: str, name: str = "") -> Step:
        how = (*where, "--prompt-tokens", str(asked.prompt), "--rounds", str(asked.rounds), *more)
        command = ("eas-export", "bench", place(bundle), "--against", ",".join(against), *how, "--json")
        return Step(f"bench {name or bundle}", command, seconds(per_gb), (f"build {bundle}",), f"verify {bundle}")

    def measured(fold: str, *more: str) -> list[Step]:
        """A fold mode of the bundle, against the same graphs without adapters."""
        runners = ("onnxruntime", "pytorch", "pytorch-captured")
        against = [*(f"{runner}-{fold}" for runner in runners), "onnxruntime-floor", "pytorch-captured-floor"]
        return [verify(fold, "pytorch", "onnxruntime"), bench(fold, 5, against, *more)]

    steps = [
        Step("checkpoint", (SYNTHETIC, "--shape", asked.shape, "--out", checkpoint), seconds(7)),
        build("weights", 6, needs="checkpoint"),
        *measured("weights", *one_row),
        build("lowrank", 2, "--fold", "lowrank", "--max-batch", "64", "--base", place("weights")),
        *measured("lowrank", "--batch", "1,8,32,64"),
    ]
    others = [
        "pytorch-published",
        "pytorch-unskipped",
        "pytorch-compiled",
        "onnxruntime-unskipped",
        "onnxruntime-plain",
    ]
    steps.append(bench("weights", 12, others, *one_row, "--ckpt", checkpoint, name="others"))
    for backend in ("tensorrt", "tensorrt-rtx"):
        fits = ("--compute-capability", gpu["compute_capability"]) if gpu and backend == "tensorrt-rtx" else ()
        steps.append(build(backend, 10, "--backend", backend, "--base", place("weights"), *fits))
        steps += [verify(backend, backend), bench(backend, 4, ["pytorch-captured-weights"], *one_row)]
    return steps


def chosen(steps: list[Step], only: str | None) -> set[str]:
    """The names of the steps that were asked for, and of the steps that they need."""
    known = {step.name: step for step in steps}
    names = set(only.split(",")) if only else {*known}
    if unknown := names - {*known}:
        sys.exit(f"--only: unknown step {min(unknown)!r}: choose from {', '.join(known)}")
    for step in reversed(steps):
        names |= {*step.needs} if step.name in names else set()
    return names


def run(step: Step, limit: float, variables: dict[str, str]) -> dict:
    """A step's record: seconds, and its report or, as `not_run`, why it has none. After `limit` seconds it is ended, with ten more to end its own
    processes and remove its files."""
    start, (program, *arguments) = time.monotonic(), step.command
    command = eas_export(*arguments) if program == "eas-export" else [sys.executable, *step.command]
    ending = ["timeout", "--kill-after=10", f"{limit:.0f}"]
    done = subprocess.run([*ending, *command], capture_output=True, text=True, env=variables)
    record = {"command": " ".join(step.command), "seconds": round(time.monotonic() - start, 1)}
    if done.returncode == 124:
        return record | {"not_run": f"the step was ended after {limit:.0f} s"}
    report = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    if "error" in report:
        return record | {"not_run": "{what} ({where}): {fix}".format(**report["error"])}
    if done.returncode and not report:  # a bundle that differs, or did not run, has a report
        return record | {"not_run": f"exit {done.returncode}: {done.stderr[-2000:]}"}
    return record | {"report": report}


def verdict(record: dict) -> str | None:
    return record.get("report", {}).get("verdict")


def line(record: dict) -> str:
    """What is printed of a step: its verdict, and milliseconds of a decode step of one row."""
    if "not_run" in record:
        return f"not run: {record['not_run']}"
    report, words = record["report"], [f"{record['seconds']} s", *filter(None, [verdict(record)])]
    words += [f"{each['name']} not run: {each['why_not']}" for each in report.get("steps", ()) if each["why_not"]]
    for name, each in report.get("baselines", {}).items():
        took = [f"{steady['step']['seconds']['p50'] * 1e3:.3f} ms" for steady in each["steady"][:1]]
        words.append(f"{name} {took[0] if took else 'not run: ' + str(each['why_not'] or each['refused'])}")
    return "; ".join(words)


def write(asked: argparse.Namespace, gpu: dict | None, records: dict[str, dict]) -> None:
    options = {name: getattr(asked, name) for name in ("shape", "precision", "device", "prompt", "rounds")}
    name = f"gpu_{asked.shape}_{asked.precision}_{asked.prompt}"
    failures = sum(verdict(record) == "differs" for record in records.values())
    result = {"name": name, **options, "parity_failures": failures, "bars": {"parity_failures": 0}, "steps": records}
    result |= environment(PACKAGES, gpu)
    result["command"] = " ".join(["python benchmarks/gpu.py --work WORK", *(f"--{n} {v}" for n, v in options.items())])
    for folder in {asked.work, asked.results}:
        unfinished = folder / f".{name}.partial"
        unfinished.write_text(json.dumps(result, indent=1).replace(str(asked.work), "WORK") + "\n")
        unfinished.replace(folder / f"{name}.json")


def install(wheels: Path, work: Path) -> Path:
    """Join wheels that are in parts, and install all. Returns the folder that they are installed into."""
    joined, site = work / "joined", work / "site"
    for folder in (joined, site):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for part in sorted(wheels.glob("*.whl*")):
        with (joined / f"{part.name.partition('.whl')[0]}.whl").open("ab") as whole:
            whole.write(part.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target"]
    subprocess.run([*pip, str(site), *map(str, joined.iterdir())], check=True)
    return site


def find_gpu() -> dict:
    """Name, memory, driver and compute capability, from nvidia-smi."""
    fields = {"name": "name", "memory": "memory.total", "driver": "driver_version", "compute_capability": "compute_cap"}
    command = ["nvidia-smi", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        sys.exit(f"there is no GPU here ({error}): pass --device cpu")
    return dict(zip(fields, line.split(", ")))


def main() -> None:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the files, which are kept")
    parser.add_argument("--shape", choices=CHECKPOINT_GB, default="7B")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp16")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the longest prompt, which is the one timed")
    parser.add_argument("--rounds", type=int, default=8, help="trials of each baseline for a step of one row")
    parser.add_argument("--minutes", type=float, default=9, help="time limit of the whole run")
    parser.add_argument("--only", help="comma-separated names of steps")
    parser.add_argument("--wheels", type=Path, help="folder of packages to install first")
    parser.add_argument("--results", type=Path, help="folder for the result; default: results/ with a GPU")
    asked = parser.parse_args()
    gpu = find_gpu() if asked.device == "cuda" else None
    asked.results = asked.results or (RESULTS if gpu else asked.work)
    for folder in (asked.work, asked.results):
        folder.mkdir(parents=True, exist_ok=True)
    variables = dict(environ)
    if asked.wheels:
        site = str(install(asked.wheels, asked.work))
        sys.path.insert(0, site)  # for the versions that the result states
        variables["PYTHONPATH"] = pathsep.join(filter(None, [site, environ.get("PYTHONPATH")]))
    kept = asked.work / f"gpu_{asked.shape}_{asked.precision}_{asked.prompt}.json"
    records = json.loads(kept.read_text())["steps"] if kept.exists() else {}
    if "report" not in records.get("checkpoint", {}):  # an unfinished checkpoint
        shutil.rmtree(asked.work / f"checkpoint-{asked.shape}", ignore_errors=True)
    steps = plan(asked, gpu)
    wanted = chosen(steps, asked.only)
    for step in steps:
        left = start + 60 * asked.minutes - time.monotonic()
        if "report" not in records.get(step.name, {}):
            why = step.reason_against(records, left) if step.name in wanted else "the step was not asked for"
            limit = min(left - 10, max(2 * step.seconds, left / 2))
            records[step.name] = {"not_run": why} if why else run(step, limit, variables)
            write(asked, gpu, records)
        print(f"{step.name}: {line(records[step.name])}", flush=True)
    sys.exit(int(any(verdict(record) == "differs" for record in records.values())))


if __name__ == "__main__":
    main()
