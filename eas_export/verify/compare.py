"""Verification of a bundle: the staged ledger, and where it first leaves the reference."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

from ..backends import for_bundles, get_backend
from ..backends.opening import require_own_graphs_and_weights
from ..backends.runtime import CPU, Runtime
from ..build.estimate import check_resources, estimate_verify
from ..bundle.bundle import Bundle, build_again
from ..bundle.manifest import MANIFEST
from ..checkpoint.checkpoint import Checkpoint
from ..core.errors import UserError
from ..core.progress import Progress
from ..networks import network_part
from ..networks.parameters import exported
from ..system.scratch import scratch_folder
from .ledger import Ledger, open_for_verifying
from .report import Divergence, FileLine, ParityReport, Verdict
from .weights import compare_weights
from .witness import first_divergence, witness_step

DEFAULT_BACKEND = "onnxruntime"
DEFAULT_STEPS = 8
FIRST_WITH_NAMES = Version("0.7.0")


@dataclass(frozen=True)
class Request:
    """What to compare, and how thoroughly.

    checkpoint  where the reference's weights come from; None: the bundle, and the verdict is "self-consistent" at best
    reference   what the report calls it
    backends    those that must run the bundle; None: ONNX Runtime, and every backend that the bundle has engines for
    require     backends that must run beside those
    inputs      an npz or jsonl file as for `run`; None: prompts made from the config
    image_root  the folder that has the images of a jsonl file; None: the file's own
    steps       decode steps, as far as the limits allow; with inputs that hold forced_tokens, as many as those
    witness     a name, and what opens that implementation of the checkpoint's family: compared in a step of its own; None: none
    device      for backends that run on a CPU and on a GPU; blocks are compared, and faults traced to them, on a CPU only
    thorough    with the longest prompt, every block, the published code's deviations and accuracy: `verify` is thorough, `build` is not
    """

    checkpoint: Checkpoint | None
    reference: str
    backends: tuple[str, ...] | None = None
    require: tuple[str, ...] = ()
    inputs: Path | None = None
    steps: int = DEFAULT_STEPS
    thorough: bool = True
    witness: tuple[str, Callable[[], Any]] | None = None
    device: torch.device = CPU
    image_root: Path | None = None


def compare_bundle(bundle: Bundle, request: Request, progress: Progress | None = None) -> ParityReport:
    """Compare a bundle, step by step, prompt by prompt and, where it takes batches, all prompts at once.

    The checkpoint must have the bundle's config. Raises UserError for inputs that do not fit the model, for an unknown backend, and for a
    bundle whose graphs or weights are not those of its config.
    """
    progress = progress or Progress()
    m = bundle.manifest
    engines = {record.engine.target.backend: None for record in m.engine_files.values()}
    chosen = (DEFAULT_BACKEND, *engines) if request.backends is None else request.backends
    required = (*(request.backends or ()), *request.require)
    rows = {name: get_backend(name) for name in (*chosen, *request.require)}
    report = ParityReport(
        verdict=Verdict.NOT_RUN,
        reference=request.reference,
        precision=m.precision,
        fold=m.fold,
        files=_check_files(bundle, progress),
        steps=(),
        required=required,
    )
    if report.damaged:  # nothing of a damaged bundle is run
        found = Divergence(step="", case="", graph=None, layer=None, stage=report.damaged[0], error=None)
        return report.model_copy(update={"verdict": Verdict.DIFFERS, "first_divergence": found})

    _require_named_values(bundle)
    check_resources(estimate_verify(bundle), scratch_folder(bundle.path), "move the bundle to a disk with more of it")
    ledger_of: type[Ledger] = network_part(m.config, "ledger")
    samples = ledger_of.read_samples(bundle, request.inputs, request.steps, request.thorough, request.image_root)
    require_own_graphs_and_weights(bundle)
    opened = {name: open_for_verifying(bundle, name, request.device) for name in rows}
    runtimes = {name: found for name, found in opened.items() if isinstance(found, Runtime)}
    ledger = ledger_of(bundle, request.checkpoint, samples, list(runtimes.values()), progress)
    witnessed = [witness_step(ledger, *request.witness)] if request.witness else []
    steps = [*(step for step, _ in witnessed), *ledger.pytorch_steps()]
    steps += [ledger.backend_step(name, found) for name, found in opened.items()]
    report = report.model_copy(
        update={"steps": tuple(steps), "blocks": tuple(b for _, found in witnessed for b in found)}
    )
    on_cpu = {name: runtime for name, runtime in runtimes.items() if runtime.device == CPU}
    shown = {name: (rows[name], runtime) for name, runtime in on_cpu.items() if rows[name].open_instrumented}
    if request.thorough:
        right = {step.name: runtimes[step.name] for step in steps if step.name in runtimes and step.ran and step.ok}
        weights = (
            compare_weights(bundle, exported(ledger.checkpoint, m.plan, m.fold), progress) if ledger.checkpoint else ()
        )
        extra = {"weights": weights, "shortcuts": ledger.published_deviations(), "accuracy": ledger.accuracy(right)}
        report = report.model_copy(update={"blocks": (*report.blocks, *ledger.blocks(shown)), **extra})
    if not report.all_same:

        def places() -> Iterator[Divergence | None]:
            yield from (first_divergence(*each) for each in witnessed)
            if not all(each.ok for each in (*steps, *report.blocks)):
                yield ledger.locate(steps, report.blocks, shown)
            for wrong in (tensor for line in report.weights for tensor in line.named):
                yield Divergence(step="", case="", graph=None, layer=None, stage=wrong.name, error=wrong.error)

        found = next(filter(None, places()))
        return report.model_copy(update={"verdict": Verdict.DIFFERS, "first_divergence": found})
    passed = Verdict.SAME if request.checkpoint else Verdict.SELF_CONSISTENT
    proven = any(step.ran and step.name in for_bundles() for step in steps)
    return report.model_copy(update={"verdict": passed if proven else Verdict.NOT_RUN})


def _require_named_values(bundle: Bundle) -> None:
    """Raise UserError for graphs of a version that did not name values after their modules (export/recorder.py): their blocks could not be
    found, and would count as wrong."""
    version = bundle.manifest.toolchain.get("eas-export", "0")
    try:
        old = Version(version) < FIRST_WITH_NAMES
    except InvalidVersion:
        old = True
    if old:
        what = f"the graphs are of eas-export {version}, which did not name their values: blocks cannot be compared"
        raise UserError(what, where=bundle.path, fix=build_again(bundle.path))


def _check_files(bundle: Bundle, progress: Progress) -> tuple[FileLine, ...]:
    with progress.stage("checking files", bundle.nbytes) as done:
        damaged = bundle.damaged_files(done)
    return tuple(FileLine(name=name, ok=name not in damaged) for name in (MANIFEST, *bundle.manifest.files))
