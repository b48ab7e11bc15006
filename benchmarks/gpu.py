"""A LaVIN-shaped model with random weights on a GPU: PyTorch, ONNX Runtime on CUDA, and whatever TensorRT takes this GPU.

    python benchmarks/gpu.py --part make --work DIR              checkpoint and bundles: 27 GB of disk at 7B in fp16
    python benchmarks/gpu.py --part make-unskipped --work DIR    the same model with every attention: 14 GB more; at the same time
    python benchmarks/gpu.py --part pytorch --work DIR           likewise onnxruntime, tensorrt, tensorrt-rtx
    python benchmarks/gpu.py --part report --work DIR            joins them: a table, and results/gpu_<shape>_<precision>.json
    python benchmarks/gpu.py --part all --work DIR               one after the other
    python benchmarks/gpu.py --part all --work DIR --device cpu --shape demo --precision fp32    all of its logic without a GPU

Regime: a decode step of few rows reads every weight once and computes little with it, so the memory's bandwidth bounds it; a prefill
computes with each weight for every token of the prompt, so arithmetic bounds it. An adapter adds next to no bytes, but small kernels.
Beside a step's time stands what it has to read, against what a large copy on the same device moved per second in the same run.

Each part is a process of its own, ends by itself after --minutes, and has written DIR/<part>.json whenever there was something: what is
cut off loses nothing. Run again, `make` goes on where it was; the others begin anew, or take only --modes and keep what they had.
A mode is compared with the float32 reference before it is timed, and is not timed where it differs (gpu_measure.py says how both are
done: warm-up, synchronisation, CUDA events). Modes:

    weights    one prompt at a time, adapters folded into the weights       lowrank    any batch, adapters beside the weights
    unskipped  as lowrank, of the model with no attention skipped            floor      PyTorch's lowrank decode without its adapters
    ... captured    PyTorch's decode step as one CUDA graph

What cannot be run is in the result with its reason, and without a number. The last line of standard output is JSON.
"""

import argparse
import functools
import gc
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from common import RESULTS
from gpu_measure import SIZES, check_parity, copy_rate, read_cases, speeds, write_reference
from gpu_part import Given, OutOfTime, Part, write_json
from gpu_report import report
from gpu_sessions import PYTORCH_GRAPHS, CapturedSession, open_pytorch, with_graphs
from synthetic import SHAPES, write_checkpoint

from eas_export.backends import get_backend
from eas_export.backends.onnxruntime.cuda import open_on_device
from eas_export.backends.opening import open_runtime
from eas_export.backends.pytorch import PyTorchSession
from eas_export.backends.runtime import Runtime
from eas_export.bundle.bundle import Bundle, open_bundle
from eas_export.core.errors import UserError
from eas_export.core.options import BuildOptions
from eas_export.pipeline import build

CHECKPOINT, WRITTEN = "checkpoint", "checkpoint.written"
SKIPPED = ("weights", "lowrank")  # bundles of the model as it is meant
BUNDLES = (*SKIPPED, "unskipped")


def make(part: Part, given: Given) -> None:
    checkpoint, written = given.work / CHECKPOINT, given.work / WRITTEN
    if not written.exists():
        shutil.rmtree(checkpoint, ignore_errors=True)
        write_checkpoint(checkpoint, given.model)
        written.touch()
        part.put("checkpoint", value=_bytes_under(checkpoint))
    for name in SKIPPED:
        _make_bundle(part, given, name)
    _make_reference(part, given, "weights")


def make_unskipped(part: Part, given: Given) -> None:
    """Beside `make`, when that has written the checkpoint."""
    while not (given.work / WRITTEN).exists():
        part.require_time()
        time.sleep(0.1)
    _make_bundle(part, given, "unskipped")
    _make_reference(part, given, "unskipped")


def _make_bundle(part: Part, given: Given, name: str, backend: str = "onnxruntime") -> Bundle:
    """What is there already and the same is taken over."""
    part.require_time()
    out, limits = given.work / f"bundle-{name}", given.size.limits
    options = limits.model_dump() | {"precision": given.precision, "backend": backend}
    options["fold"] = "weights" if name == "weights" else "lowrank"
    if name == "weights":
        options["max_batch"] = 1
    if name == "unskipped":
        options["skip"] = "none"
    if backend == "tensorrt-rtx":
        options["compute_capability"] = _capability()
    base = given.work / "bundle-weights" if name == "lowrank" else None  # its weights are not written again
    make_it = functools.partial(build, given.work / CHECKPOINT, out, base=base, verify=False, **options)
    try:
        make_it()
    except UserError:  # one with other engines is there, of which all the rest is taken over; or it fails again
        make_it(force=True)
    part.put("bundles", name, value=_bytes_under(out))
    return open_bundle(out)


def _make_reference(part: Part, given: Given, name: str) -> None:
    part.require_time()
    write_reference(given.bundle(name), given.reference(name))
    part.put("reference", name, value="written")


def run_pytorch(part: Part, given: Given) -> None:
    """All modes of the skipped model share one copy of its weights."""

    @functools.cache
    def network(name: str) -> Runtime:
        if name == "unskipped":
            network.cache_clear()  # the other model's memory is given back first
        return open_pytorch(given.bundle(name), given.device)

    def opener(mode: str, kind: type) -> Callable[[], Runtime]:
        bundle = "unskipped" if mode == "unskipped" else "lowrank"
        return lambda: with_graphs(network(bundle), PYTORCH_GRAPHS[mode], given.precision, kind)

    kinds = {"": PyTorchSession} | ({" captured": CapturedSession} if given.device.type == "cuda" else {})
    skipped = {f"{m}{s}": opener(m, k) for s, k in kinds.items() for m in ("lowrank", "weights", "floor")}
    run_modes(part, given, skipped | {f"unskipped{s}": opener("unskipped", k) for s, k in kinds.items()})


def run_onnxruntime(part: Part, given: Given) -> None:
    def opener(name: str) -> Callable[[], Runtime]:
        def open_() -> Runtime:
            runtime = open_on_device(given.bundle(name), given.device)
            for graph, session in runtime.sessions.items():
                if session.on_cpu:
                    part.put("modes", name, "not_all_on_the_gpu", graph, value=session.on_cpu)
            return runtime

        return open_

    run_modes(part, given, {name: opener(name) for name in BUNDLES})


def run_tensorrt(part: Part, given: Given, backend: str) -> None:
    """Engines are built where they are run. Refusals are TensorRT's or ours, word for word."""
    if given.device.type != "cuda":
        what = f"{backend} engines run on a GPU, and this run is on the CPU"
        raise UserError(what, where="--device cpu", fix="run it on a machine with a GPU")
    capability = _capability() if backend == "tensorrt-rtx" else None
    target = get_backend(backend).compiler.target(BuildOptions(backend=(backend,), compute_capability=capability))
    part.put("target", value=target.model_dump(mode="json"))

    def opener(name: str) -> Callable[[], Runtime]:
        def open_() -> Runtime:
            bundle = _make_bundle(part, given, name, backend)
            engines = {
                graph: record.model_dump(mode="json") for graph, record in bundle.manifest.engines(backend).items()
            }
            part.put("modes", name, "engines", value=engines)
            return open_runtime(bundle, backend)

        return open_

    run_modes(part, given, {name: opener(name) for name in BUNDLES})


def run_modes(part: Part, given: Given, openers: dict[str, Callable[[], Runtime]]) -> None:
    """Every mode: open, compare, and only then time. One that does not run leaves the others alone."""
    rate = copy_rate(given.device, given.size.copied)
    part.put("copy_bytes_per_second", value=rate)
    failures = []
    for mode, open_ in openers.items():
        if given.modes and mode not in given.modes:
            continue
        part.require_time()
        part.found.setdefault("modes", {}).pop(mode, None)
        try:
            _run_mode(part, given, mode, open_, rate)
        except UserError as error:
            part.put("modes", mode, "not_run", value=str(error))
        except OutOfTime:
            raise
        except Exception as error:  # a measurement that failed must not lose the next
            traceback.print_exc()
            part.put("modes", mode, "error", value=_name(error))
            failures.append(mode)
        gc.collect()
        if given.device.type == "cuda":
            torch.cuda.empty_cache()
    if failures:
        raise RuntimeError(f"modes that failed: {', '.join(failures)}")


def _run_mode(part: Part, given: Given, mode: str, open_: Callable[[], Runtime], rate: float) -> None:
    name = mode.split()[0]
    bundle = given.bundle("lowrank" if name == "floor" else name)
    cases = {} if name == "floor" else read_cases(bundle, given.reference(name), bundle.manifest.limits.max_batch)
    runtime = open_()
    if name == "floor":  # no model: what it shares with lowrank must be right
        lowrank = part.found["modes"].get(mode.replace("floor", "lowrank"), {})
        parity = {"ok": lowrank.get("parity", {}).get("ok", False), "cases": "none of its own: as lowrank"}
    else:
        parity = check_parity(runtime, cases, given.precision)
    part.put("modes", mode, "parity", value=parity)
    if not parity["ok"]:
        return
    decode_only = mode.endswith("captured")
    for keys, figure in speeds(runtime, bundle, name, given.size, rate, decode_only):
        part.put("modes", mode, "speed", *keys, value=figure)
        part.require_time()


MAKERS = {"make": make, "make-unskipped": make_unskipped}  # need no GPU
PARTS = {
    **MAKERS,
    "pytorch": run_pytorch,
    "onnxruntime": run_onnxruntime,
    "tensorrt-rtx": functools.partial(run_tensorrt, backend="tensorrt-rtx"),
    "tensorrt": functools.partial(run_tensorrt, backend="tensorrt"),
}


def run_part(name: str, given: Given) -> int:
    """Exit code 1 for what nobody expected; a part that cannot run, and one whose time is over, have said so."""
    part, code = Part(name, given), 0
    try:
        given.require_same_as_made()
        if name not in MAKERS and given.device.type == "cuda" and not torch.cuda.is_available():
            raise UserError("PyTorch sees no GPU here", where="--device cuda", fix="pass --device cpu")
        PARTS[name](part, given)
    except UserError as error:
        part.put("not_run", value=str(error))
    except OutOfTime:
        part.put("stopped", value=f"after {given.minutes:g} minutes")
    except Exception as error:
        traceback.print_exc()
        part.put("error", value=_name(error))
        code = 1
    print(json.dumps({name: part.found}))
    return code


def run_all(given: Given, arguments: list[str]) -> int:
    """A process for each part: memory is given back, and a crash is that part's result. Both models are made at the same time."""
    codes = []
    for names in [list(MAKERS), *([name] for name in PARTS if name not in MAKERS)]:
        started = {}
        for name in names:
            (given.work / f"{name}.json").unlink(missing_ok=True)
            command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--part", name]
            started[name] = subprocess.Popen(command)
        latest = time.monotonic() + 60 * given.minutes + 60
        codes += [_end(name, process, latest, given) for name, process in started.items()]
    return int(any(codes))


def _end(name: str, process: subprocess.Popen, latest: float, given: Given) -> int:
    """Wait for a part until then, and see to it that its file says how it ended."""
    try:
        code = process.wait(max(1, latest - time.monotonic()))
        ended = f"its process ended with {code}"
    except subprocess.TimeoutExpired:
        process.kill()
        code, ended = process.wait(), f"killed after {given.minutes:g} minutes and one more"
    path = given.work / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if code and "error" not in found:
        write_json(path, found | {"error": ended})
    return code


def _capability() -> str:
    return "{}.{}".format(*torch.cuda.get_device_capability())


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=[*PARTS, "report", "all"], required=True)
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept between parts")
    parser.add_argument("--shape", choices=SHAPES, default="7B")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp16")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="a part ends after so many")
    parser.add_argument(
        "--sizes", choices=SIZES, help="of prompts, batches and steps; default: tiny for demo, else full"
    )
    parser.add_argument("--layers", type=int, help="another number of layers, to try things out")
    parser.add_argument("--modes", help="only these modes of the part, with commas between them")
    parser.add_argument("--results", type=Path, help="where the report goes; default: results/ for a GPU, else --work")
    asked = parser.parse_args()
    sizes = asked.sizes or ("tiny" if asked.shape == "demo" else "full")
    device = torch.device("cuda", 0) if asked.device == "cuda" else torch.device("cpu")
    modes = tuple(asked.modes.split(",")) if asked.modes else None
    given = Given(asked.work, asked.shape, asked.precision, device, asked.minutes, sizes, asked.layers, modes)
    given.work.mkdir(parents=True, exist_ok=True)
    options = ["--shape", asked.shape, "--precision", asked.precision, "--device", asked.device, "--sizes", sizes]
    options += ["--layers", str(asked.layers)] if asked.layers else []
    if asked.part not in ("report", "all"):
        sys.exit(run_part(asked.part, given))
    folders = [asked.results or (RESULTS if device.type == "cuda" else asked.work)]
    folders += [Path(os.environ["OUT"])] if os.environ.get("OUT") else []
    try:
        given.require_same_as_made()
    except UserError as error:
        sys.exit(str(error))
    code = 0
    if asked.part == "all":
        code = run_all(given, [*options, "--minutes", str(asked.minutes), "--work", str(asked.work)])
    missed = report(list(PARTS), given.work, device, given.model, options, folders)
    sys.exit(code or missed)


if __name__ == "__main__":
    main()
