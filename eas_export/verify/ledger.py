"""The ledger: from the checkpoint to what is deployed, step by step, each beside the reference and beside the step before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backends.contract import Backend
from ..backends.opening import open_low_memory_runtime, open_runtime
from ..backends.runtime import CPU, Runtime, Tensors
from ..bundle.bundle import Bundle
from ..bundle.manifest import Manifest
from ..checkpoint.checkpoint import Checkpoint
from ..core.errors import OutOfSpace, UserError
from ..core.precision import PRECISIONS, Precision
from ..core.progress import Progress
from ..evaluate.accuracy import Accuracy
from ..families.witnesses import Witnessed
from ..networks.network import Readers
from ..networks.parameters import network_parameters
from ..networks.prune import prune
from ..system.scratch import Scratch, scratch_folder
from .lines import Line, compare
from .locate import Fault, Search
from .metrics import stream_units
from .report import BlockLine, Divergence, PublishedDeviation, StepReport
from .taps import Block, InstrumentedGraph

REFERENCE = "pytorch, unfolded"
Instrumented = Mapping[str, tuple[Backend, Runtime]]  # by name: what opens instrumented graphs, and the bundle on it


@dataclass(frozen=True)
class Step:
    """name     as reports call it
    what      it computes
    tolerance  precision -> the largest error against the step before, in units of the reference's standard deviation; reason: why
    """

    name: str
    what: str
    tolerance: Callable[[Precision], float]
    reason: str


FOLDED = Step(
    name="pytorch, folded",
    what="PyTorch in float32, with each prompt's adapters folded into the weights: shows what folding changes",
    tolerance=lambda precision: PRECISIONS["fp32"].tolerance,
    reason="folding computes the same sums in another order, in float32 for every precision",
)
STORED = Step(
    name="pytorch, the bundle's weights",
    what="PyTorch in float32, with the bundle's own weights and fold mode: shows what writing and rounding the weights changes",
    tolerance=lambda precision: precision.tolerance,
    reason="every weight is rounded once to the bundle's precision, which in bf16 uses most of the tolerance",
)


def backend_step(runs_as: str, name: str) -> Step:
    """The bundle on a backend. runs_as: the runtime's own name for it ("onnxruntime, bf16 computed in float32")"""
    return Step(
        name=name,
        what=f"the bundle on {runs_as}: shows what the backend and its arithmetic change",
        tolerance=lambda precision: precision.tolerance,
        reason="every operation is rounded to the bundle's precision, in another order",
    )


@dataclass(frozen=True)
class Case:
    """rows: which of all samples; batch: these samples as one, in the form of the kind of network"""

    name: str
    rows: slice
    batch: Any


def make_cases(
    samples: Mapping[str, Any],
    size: int,
    join: Callable[[Sequence[Any]], Any],
    alike: Callable[[Any, Any], bool] = lambda a, b: True,
) -> list[Case]:
    """Each sample on its own, and all in batches of up to `size` neighbours that are alike; a batch of one sample is left out."""
    each = list(samples.values())
    cases = [Case(name, slice(i, i + 1), each[i]) for i, name in enumerate(samples)]
    first = 0
    while first < len(each):
        end = first + 1
        while end < len(each) and end - first < size and alike(each[first], each[end]):
            end += 1
        if end - first > 1:
            cases.append(Case(f"{first + 1} to {end} in one batch", slice(first, end), join(each[first:end])))
        first = end
    return cases


def open_for_verifying(bundle: Bundle, backend: str, device: torch.device = CPU) -> Runtime | str:
    """The bundle opened on a backend, or the reason why it cannot be."""
    try:
        runtime = open_low_memory_runtime(bundle, backend) if device == CPU else open_runtime(bundle, backend, device)
    except UserError as error:
        return f"{error.what}: {error.fix}"
    if runtime.device == CPU:
        return replace(runtime, empty=Scratch(scratch_folder(bundle.path)).empty)
    return runtime


def readers_of(checkpoint: Checkpoint, m: Manifest) -> Readers:
    """The parameters of a checkpoint's network with a bundle's plan, in float32."""
    parameters = network_parameters(checkpoint, m.plan, PRECISIONS["fp32"], m.limits)
    return {name: tensor.read for name, tensor in parameters.items()}


class Ledger:
    """The steps in their order: `pytorch_steps`, then `backend_step` for each backend.

    A kind of network implements what raises NotImplementedError; its constructor runs the reference.

    checkpoint  pruned; None: the reference has the bundle's own weights; whole: as it was loaded
    cases       samples and batches to compare
    wanted      the reference's result on each sample
    before      the last step that ran, and its result on each sample
    probe       the case whose blocks are compared; boundaries: the reference's output of each block
    """

    blocks_graph: str  # the graph whose blocks are compared
    cases: list[Case]
    wanted: list[Any]
    probe: Case

    def __init__(self, bundle: Bundle, checkpoint: Checkpoint | None, progress: Progress):
        self.bundle, self.progress = bundle, progress
        self.precision = PRECISIONS[bundle.manifest.precision]
        self.whole = checkpoint
        self.checkpoint = prune(checkpoint, bundle.manifest.plan) if checkpoint else None
        self.before: tuple[str, list[Any]] = (REFERENCE, [])
        self.boundaries: dict[Block, Tensor] = {}

    @staticmethod
    def read_samples(
        bundle: Bundle, inputs: Path | None, steps: int, longest: bool, image_root: Path | None = None
    ) -> Any:
        """The constructor's `samples`. Raises UserError for inputs that do not fit the bundle."""
        raise NotImplementedError

    def pytorch_runs(self) -> Iterator[tuple[Step, list[Any]]]:
        """The steps in PyTorch, each with its result on every sample."""
        raise NotImplementedError

    def run(self, case: Case, runtime: Runtime) -> Any:
        """The result of a backend on a case."""
        raise NotImplementedError

    def kept(self, result: Any) -> Any:
        """The part of a result that stays in memory once it was compared."""
        return result

    def join(self, results: Sequence[Any]) -> Any:
        """Several samples' results as those of one batch."""
        raise NotImplementedError

    def compare(self, got: Any, want: Any, before: Any, tolerance: float) -> tuple[Line, ...]:
        """Every output of a step on a case, in the order of computation. tolerance: against the step before"""
        raise NotImplementedError

    def probe_inputs(self, runtime: Runtime) -> Tensors:
        """The inputs of `blocks_graph` on the probe."""
        raise NotImplementedError

    def faults(self, search: Search, case: Case) -> Iterator[Fault]:
        """The parts of the bundle that are wrong by themselves on a case, in the order of computation."""
        raise NotImplementedError

    def base_path(self, witness: Any) -> Iterator[tuple[str, Witnessed, Witnessed]]:
        """Of each sample its name, what the reference's network computes without adapters, and what a witness of the family does."""
        raise NotImplementedError

    def published_deviations(self) -> tuple[PublishedDeviation, ...]:
        """How far the published code's adapter modes are from the exact one."""
        return ()

    def accuracy(self, runtimes: Mapping[str, Runtime]) -> Accuracy | None:
        """Task accuracy where the samples have labels. runtimes: of backends without a difference"""
        return None

    def pytorch_steps(self) -> list[StepReport]:
        """The steps that run in PyTorch: folding, and the stored weights."""
        steps = []
        for step, results in self.pytorch_runs():
            lines = {case.name: self._lines(step, case, self._of(case, results)) for case in self.cases}
            steps.append(self._report(step, lines))
            self.before = (step.name, results)
        return steps

    def backend_step(self, name: str, opened: Runtime | str) -> StepReport:
        """The bundle on a backend, or why it was not run. A backend that fails on a case gets a line with the error, and no further case."""
        if isinstance(opened, str):
            return self._report(backend_step(name, name), {}, why_not=opened)
        step, results, lines = backend_step(opened.backend, name), [], {}
        try:
            for case in self.cases:
                with self.progress.stage(f"comparing {case.name} on {name}"):
                    lines[case.name], result = self._run(step, case, opened)
                results.append(result)
        except OutOfSpace as error:
            return self._report(step, {}, why_not=f"{error.what}: {error.fix}")
        except UserError as error:
            stage = error.where.removeprefix("graph ")
            lines[case.name] = (Line(stage=stage, error=None, tolerance=0, ok=False, note=error.what),)
            return self._report(step, lines)
        report = self._report(step, lines)
        self.before = (name, results[: len(self.wanted)])
        return report

    def blocks(self, instrumented: Instrumented) -> tuple[BlockLine, ...]:
        """Every block's output on the probe, on every backend that opens instrumented graphs."""
        found: list[BlockLine] = []
        for name, (backend, runtime) in instrumented.items():
            with self.progress.stage(f"comparing blocks on {name}"):
                try:
                    found += self._block_lines(name, backend, runtime)
                except OutOfSpace:
                    raise  # blocks that were not compared must not pass
                except UserError:  # a graph without the blocks that it should have
                    line = Line(stage="", error=None, tolerance=0, ok=False)
                    found.append(self._block_line(name, "", Block("", 0, "kept"), line))
        return tuple(found)

    def locate(
        self, steps: Sequence[StepReport], blocks: Sequence[BlockLine], instrumented: Instrumented
    ) -> Divergence:
        """Where the first step that differs leaves the reference, or the first block where no step differs. The layer is known where the
        backend opens instrumented graphs, and one block alone is wrong."""
        bad = [(step, case) for step in steps for case in self.cases if _differs(step, case)]
        if not bad:
            block = next(block for block in blocks if not block.ok)
            where = {"step": block.step, "case": block.case, "graph": self.blocks_graph}
            return Divergence(**where, part=block.part, layer=block.layer, stage="block", error=block.relative)
        step, case = bad[0]
        # wrong weights are wrong on every backend; a fault of one backend is looked for on that backend
        shown = step.name if step.name in instrumented else next(iter(instrumented), None)
        where = {"step": step.name, "case": case.name}
        if shown and (shown == step.name or step.name in (FOLDED.name, STORED.name)):
            with self.progress.stage("looking for the first divergence"):
                search = Search(self.bundle, *instrumented[shown], self.precision)
                try:
                    fault = next(self.faults(search, case), None)
                except UserError:  # a graph that does not run, which its step reports
                    fault = None
            if fault:
                return Divergence(**where, **vars(fault))
        line = next(line for line in step.cases[case.name] if not line.ok)
        return Divergence(**where, graph=None, layer=None, stage=line.stage, error=line.relative)

    def checkpoint_readers(self) -> Readers:
        """The network's parameters, made from the checkpoint."""
        return readers_of(self.checkpoint, self.bundle.manifest)

    def stored_readers(self) -> Readers:
        store = self.bundle.store
        return {name: lambda name=name: store.tensor(name).float() for name in store.entries}

    def _run(self, step: Step, case: Case, runtime: Runtime) -> tuple[tuple[Line, ...], Any]:
        got = self.run(case, runtime)
        return self._lines(step, case, got), self.kept(got)

    def _lines(self, step: Step, case: Case, got: Any) -> tuple[Line, ...]:
        want, before = self._of(case, self.wanted), self._of(case, self.before[1])
        return self.compare(got, want, before, step.tolerance(self.precision))

    def _of(self, case: Case, results: Sequence[Any]) -> Any:
        """The case's part of every sample's own results."""
        mine = results[case.rows]
        return mine[0] if len(mine) == 1 else self.join(mine)

    def _report(self, step: Step, lines: Mapping[str, tuple[Line, ...]], why_not: str = "") -> StepReport:
        tolerance, before = step.tolerance(self.precision), self.before[0]
        named = {"name": step.name, "what": step.what, "reason": step.reason}
        return StepReport(**named, before=before, tolerance=tolerance, why_not=why_not, cases=dict(lines))

    def _block_lines(self, name: str, backend: Backend, runtime: Runtime) -> list[BlockLine]:
        graph = InstrumentedGraph(self.bundle, self.blocks_graph)
        shapes = {block.output: want.shape for block, want in self.boundaries.items()}
        values, lines = graph.run(backend, runtime, self.probe_inputs(runtime), shapes), []
        units = stream_units({(block.part, block.layer): want for block, want in self.boundaries.items()})
        for block, want in self.boundaries.items():
            unit = units[block.part, block.layer]
            line = compare("", values[block.output], want, self.precision.tolerance * unit, unit)
            lines.append(self._block_line(name, self.probe.name, block, line))
        return lines

    def _block_line(self, step: str, case: str, block: Block, line: Line) -> BlockLine:
        place = {name: getattr(block, name) for name in ("part", "layer", "kind")}
        judged = {name: getattr(line, name) for name in ("error", "relative", "cosine", "ok")}
        return BlockLine(step=step, case=case, tolerance=self.precision.tolerance, **place, **judged)


def _differs(step: StepReport, case: Case) -> bool:
    return any(not line.ok for line in step.cases.get(case.name, ()))
