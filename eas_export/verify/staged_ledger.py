"""What the ledgers of all kinds of networks have in common: steps in their order, each beside the one before, and the first that differs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..backends.contract import Backend
from ..backends.opening import open_runtime, open_sparing_runtime
from ..backends.runtime import CPU, Runtime
from ..bundle.bundle import Bundle
from ..core.errors import NoRoom, UserError
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..evaluate.accuracy import Accuracy
from ..system.scratch import Scratch, scratch_folder
from .metrics import Line
from .report import BlockLine, Divergence, Shortcut, StepReport
from .steps import FOLDED, STORED, Step, backend_step

Tapped = Mapping[str, tuple[Backend, Runtime]]  # by name: what opens tapped graphs, and the bundle on it


def open_for_verifying(bundle: Bundle, backend: str, device: torch.device = CPU) -> Runtime | str:
    """The bundle on a backend; the reason where that cannot be had here."""
    try:
        runtime = open_sparing_runtime(bundle, backend) if device == CPU else open_runtime(bundle, backend, device)
    except UserError as error:
        return f"{error.what}: {error.fix}"
    if runtime.device == CPU:
        return replace(runtime, empty=Scratch(scratch_folder(bundle.path)).empty)
    return runtime


@dataclass(frozen=True)
class Fault:
    """graph, part, layer, stage, error: see report.Divergence"""

    graph: str
    layer: int | None
    stage: str
    error: float | None
    part: str = ""


class StagedLedger:
    """A kind of network fills in `read_samples`, `pytorch_steps`, `run_case`, `block_lines` and `find_fault`.

    cases   what is compared, each with a name
    before  the last step that ran, and what it gave on each of the samples
    """

    read_samples: Callable[
        ..., Any
    ]  # (bundle, inputs, steps, longest) -> what its constructor takes as samples; raises UserError
    blocks_graph: str  # the graph whose blocks are shown

    def __init__(self, bundle: Bundle, progress: Progress):
        self.bundle, self.progress = bundle, progress
        self.precision = PRECISIONS[bundle.manifest.precision]
        self.cases: list[Any] = []
        self.before: tuple[str, list[Any]] = ("", [])

    def pytorch_steps(self) -> list[StepReport]:
        """What folding changes, and what writing the weights changes."""
        raise NotImplementedError

    def run_case(self, step: Step, case: Any, runtime: Runtime) -> tuple[tuple[Line, ...], Any]:
        """A case's lines on a backend, and what it gave."""
        raise NotImplementedError

    def block_lines(self, name: str, backend: Backend, runtime: Runtime) -> tuple[BlockLine, ...]:
        """Every block's output on one case, on a backend that opens tapped graphs."""
        raise NotImplementedError

    def find_fault(self, backend: Backend, runtime: Runtime, case: Any) -> Fault | None:
        """The first part of the bundle that is off by itself on a case."""
        raise NotImplementedError

    def shortcuts(self) -> tuple[Shortcut, ...]:
        """How far the published code's own ways would be from the exact one."""
        return ()

    def accuracy(self, runtimes: Mapping[str, Runtime]) -> Accuracy | None:
        """The task's, where the samples have labels."""
        return None

    def backend_step(self, name: str, opened: Runtime | str) -> StepReport:
        """The bundle on a backend, or why not. A backend that fails on a case has a line that says so, and goes no further."""
        if isinstance(opened, str):
            return self.report(backend_step(name, name), {}).model_copy(update={"why_not": opened})
        step, results, lines = backend_step(opened.backend, name), [], {}
        report = self.report(step, {})
        try:
            for case in self.cases:
                with self.progress.stage(f"comparing {case.name} on {name}"):
                    lines[case.name], result = self.run_case(step, case, opened)
                results.append(result)
        except NoRoom as error:
            return report.model_copy(update={"why_not": f"{error.what}: {error.fix}"})
        except UserError as error:
            stage = error.where.removeprefix("graph ")
            lines[case.name] = (Line(stage=stage, error=None, tolerance=0, ok=False, note=error.what),)
        else:
            self.before = (name, results[: len(self.before[1])])
        return report.model_copy(update={"cases": lines})

    def blocks(self, tapped: Tapped) -> tuple[BlockLine, ...]:
        """Every block's output on one case, on every backend that can show it."""
        found: list[BlockLine] = []
        for name, (backend, runtime) in tapped.items():
            with self.progress.stage(f"comparing blocks on {name}"):
                try:
                    found += self.block_lines(name, backend, runtime)
                except NoRoom:
                    raise  # blocks that were not compared are not the same
                except UserError:  # a graph without the blocks that it should have
                    found.append(self._no_block(name))
        return tuple(found)

    def locate(self, steps: Sequence[StepReport], blocks: Sequence[BlockLine], tapped: Tapped) -> Divergence:
        """Where the first step that differs leaves the reference; its layer where the backend can show what goes on inside, and one block
        alone is off. Without a step that differs, a block's line does."""
        bad = [(step, case) for step in steps for case in self.cases if _differs(step, case)]
        if not bad:
            block = next(block for block in blocks if not block.ok)
            where = {"step": block.step, "case": block.case, "graph": self.blocks_graph}
            return Divergence(**where, part=block.part, layer=block.layer, stage="block", error=block.relative)
        step, case = bad[0]
        # what is wrong in the weights is wrong wherever they run; what is wrong on a backend is looked for there
        shown = step.name if step.name in tapped else next(iter(tapped), None)
        where = {"step": step.name, "case": case.name}
        if shown and (shown == step.name or step.name in (FOLDED.name, STORED.name)):
            with self.progress.stage("looking for the first divergence"):
                fault = self._find_fault(*tapped[shown], case)
            if fault:
                return Divergence(**where, **vars(fault))
        line = next(line for line in step.cases[case.name] if not line.ok)
        return Divergence(**where, graph=None, layer=None, stage=line.stage, error=line.relative)

    def report(self, step: Step, lines: Mapping[str, tuple[Line, ...]]) -> StepReport:
        tolerance = step.tolerance(self.precision)
        return StepReport(
            name=step.name,
            what=step.what,
            before=self.before[0],
            tolerance=tolerance,
            reason=step.reason,
            cases=dict(lines),
        )

    def _find_fault(self, backend: Backend, runtime: Runtime, case: Any) -> Fault | None:
        try:
            return self.find_fault(backend, runtime, case)
        except UserError:  # a graph that does not run has been said to be one
            return None

    def _no_block(self, step: str) -> BlockLine:
        nothing = {"error": None, "relative": None, "cosine": None}
        tolerance = self.precision.tolerance
        return BlockLine(step=step, case="", layer=0, kind="kept", tolerance=tolerance, ok=False, **nothing)


def _differs(step: StepReport, case: Any) -> bool:
    return any(not line.ok for line in step.cases.get(case.name, ()))
