"""All of `bench`: choose baselines, make the bundles that they run, time them in rounds of trials, make the report."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from .. import __version__
from ..backends import BACKENDS
from ..backends.opening import require_own_graphs_and_weights
from ..backends.runtime import device_named
from ..build.keys import hash_sources
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.manifest import Manifest
from ..core.errors import UserError
from ..core.progress import Progress
from ..families import load_checkpoint
from ..families.contract import Sources
from ..system.files import translated
from ..system.locked_folder import clear, lock_folder
from ..system.machine import cpu_name, total_memory
from ..system.scratch import scratch_folder
from .baseline_bundles import BaselineBundles
from .baselines import Baseline, Kind, choose, kind_of, subjects
from .child_process import ChildProcess, Refused, started
from .report import BenchReport, Memory, Place, Result
from .schedule import TimedPart, run_schedule
from .settings import BATCHES, Workload, make_workload
from .stages import ANSWER, FIRST, FOLD, FULL, PREFILL, VISION
from .summary import MACHINE, Summary
from .systems import contestants

PACKAGES = (*(package for row in BACKENDS.values() for package in row.packages), "onnxruntime-genai")
PROBES = Baseline("", MACHINE, "what the machine can do")


def bench(
    bundle: Bundle | Path | str,
    ckpt: Path | str | None = None,
    *,
    weights: Path | str | None = None,
    vision: Path | str | None = None,
    base_weights: Path | str | None = None,
    tokenizer: Path | str | None = None,
    against: Sequence[str] | None = None,
    against_ckpt: Mapping[str, Path | str] | None = None,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    batches: Sequence[int] = BATCHES,
    rounds: int = 20,
    device: str | None = None,
    scratch: Path | str | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Time a bundle and its baselines in the same rounds, so that whatever slows the machine down slows all of them.

    ckpt, weights, vision, base_weights, tokenizer  see families/contract.Sources; without a checkpoint no baseline with every attention can be run
    against        names of baselines (decoder.py, cross_encoder.py); None: all
    against_ckpt   name in systems.SYSTEMS -> a checkpoint of that system, or a bundle built from one, which is timed beside the baselines
    prompt_tokens, new_tokens, batches, rounds, device  see settings.Workload; device None: cuda where PyTorch sees a GPU
    scratch        a folder for the baselines' bundles, which are removed in the end; None: beside the bundle

    Raises UserError for an unknown baseline or system, for a checkpoint of another model in against_ckpt, for a workload beyond the bundle's limits, and where the bundle itself cannot be run.
    A baseline that cannot be run is in the report with the reason.
    """
    opened = open_bundle(bundle)
    require_own_graphs_and_weights(opened)
    m, progress = opened.manifest, progress or Progress()
    workload = make_workload(m.limits, prompt_tokens, new_tokens, tuple(batches), rounds, device_named(device).type)
    kind = kind_of(m.config)
    names = subjects(m, workload.device)
    chosen = choose(kind.baselines, names, against)
    sources = Sources.given("bench", ckpt, weights, vision, base_weights, tokenizer, **m.options.settings)
    if sources:
        _require_origin(sources, m, progress)
    systems = contestants(against_ckpt or {}, opened, sources, workload.device)
    chosen |= {name: each.baseline for name, each in systems.items()}
    makers = {name: each.place for name, each in systems.items()}
    with folder_for_bundles(opened, scratch) as folder, ExitStack() as processes:
        bundles = BaselineBundles(opened, sources, workload, folder, progress, makers)
        children, missing = _open(processes, bundles, chosen, names)
        own = next(name for name in names if name in children)
        probes = children[MACHINE].parts if MACHINE in children else {}
        measured = run_schedule([*children.values()], _schedule(kind, workload, tuple(probes)), progress)
        summary = Summary(opened, workload, measured, probes)
        if not summary.trials(own, summary.step):
            raise _cannot_run(
                own, measured.refused.get(own, {}).get(summary.step, f"{own} has no part {summary.step!r}")
            )
        results = {
            name: summary.result(name, each).model_copy(update=_of_process(children[name]))
            if name in children
            else Result(what=each.what, why_not=missing[name])
            for name, each in chosen.items()
        }
    return BenchReport(
        bundle=opened.path.resolve().name,
        subject=own,
        precision=m.precision,
        fold=m.fold,
        skipped=len(m.plan.skipped),
        sites=m.plan.sites,
        workload=workload,
        place=_place(workload),
        baselines=results,
        **summary.sections(own),
    )


@contextmanager
def folder_for_bundles(bundle: Bundle, scratch: Path | str | None) -> Iterator[Path]:
    """An empty folder in `scratch`, by default beside the bundle, which is removed in the end; what a killed bench left there is removed,
    too. Raises UserError where it cannot be made, and while another bench of the bundle is running."""

    def busy(_: str) -> UserError:
        what = "another bench of this bundle is running, and both would be slower"
        return UserError(what, where=folder, fix="wait until it ends")

    parent = scratch_folder(bundle.path) if scratch is None else Path(scratch)
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        what = "the scratch folder is not there, or cannot be written to"
        raise UserError(what, where=f"--scratch {parent}", fix="give another folder")
    folder = parent / f".{bundle.path.resolve().name}.bench"
    with translated(folder, "the scratch folder cannot be made", "give another --scratch"):
        locked = lock_folder(folder, busy)
    with locked:
        clear(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _open(
    processes: ExitStack, bundles: BaselineBundles, chosen: Mapping[str, Baseline], own: Sequence[str]
) -> tuple[dict[str, ChildProcess], dict[str, str]]:
    """Start a process for each baseline that can be run; for the others, say why not. `own`, the bundle itself, comes first, the machine's
    probes last. Raises UserError where the bundle itself cannot be run, before anything is made for the others."""
    children: dict[str, ChildProcess] = {}
    missing: dict[str, str] = {}
    for name, baseline in {**chosen, MACHINE: PROBES}.items():
        try:
            place = bundles.place(baseline.bundle) if baseline.bundle else bundles.bundle.path
            child = processes.enter_context(started(name, bundles.folder))
            with bundles.progress.stage(f"opening {name}"):
                child.open(baseline.runner or chosen[next(iter(children))].runner, place, bundles.workload)
            children[name] = child
        except (UserError, Refused) as refusal:
            missing[name] = str(refusal)
            if not children and name == own[-1]:
                raise _cannot_run(own[0], missing[own[0]]) from None
    return children, missing


def _cannot_run(name: str, why: str) -> UserError:
    fix = "run eas-export doctor; on a machine with a GPU, try --device cpu"
    return UserError(f"the bundle itself cannot be run: {why}", where=name, fix=fix)


def _require_origin(sources: Sources, m: Manifest, progress: Progress) -> None:
    """Raise UserError unless the bundle was built from this checkpoint, which may have more files since."""
    checkpoint = load_checkpoint(sources, m.config.family)
    if not set(m.sources) <= set(hash_sources(checkpoint, progress)):
        what = "the bundle was not built from this checkpoint"
        raise UserError(what, where=f"--ckpt {sources.ckpt}", fix="pass the checkpoint that it was built from")


def _schedule(kind: Kind, workload: Workload, probes: tuple[str, ...]) -> list[TimedPart]:
    """All parts that a baseline may have. The machine's probes run in the rounds of the parts that are held against them."""
    one, *more = (kind.step.format(rows) for rows in workload.batches)
    few = workload.few
    return [
        *(TimedPart(part, few, probes) for part in (VISION, PREFILL)),
        TimedPart(FOLD, few, (one, *probes)),
        TimedPart(FIRST, few),
        TimedPart(one, workload.rounds, probes),
        *(TimedPart(part, few, probes) for part in more),
        TimedPart(FULL, few, (one, *probes)),
        TimedPart(ANSWER, workload.answers),
    ]


def _of_process(child: ChildProcess) -> dict[str, object]:
    """What its process reports in the end; no memory where it has crashed."""
    try:
        memory = Memory(**child.ask({"memory": True}))
    except Refused:
        memory = None
    return {"opened_seconds": child.seconds, "notes": child.notes, "memory": memory}


def _place(workload: Workload) -> Place:
    gpu = torch.cuda.get_device_name(0) if workload.device == "cuda" else None
    return Place(
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=total_memory(),
        gpu=gpu,
        versions=dict(_versions()),
    )


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "eas-export", __version__
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)
