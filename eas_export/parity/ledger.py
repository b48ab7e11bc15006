"""The steps of the ledger, run: from PyTorch with its adapters in place, over the fold and the stored weights, to every backend.

Neither side holds the model: PyTorch goes block by block, and the bundle runs mapped, or in parts where its backend would copy it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..backends.backend import Backend
from ..backends.opening import open_sparing_runtime
from ..backends.runtime import CPU, Runtime
from ..bundle import Bundle
from ..checkpoint.checkpoint import Checkpoint
from ..conversation import check_prompts
from ..errors import NoRoom, UserError
from ..families import get_family
from ..generate import Generation, generate
from ..precision import PRECISIONS
from ..progress import Progress
from ..rewrite.constants import network_parameters
from ..rewrite.prune import prune
from ..scratch import Scratch, scratch_folder
from ..text import open_tokenizer
from .accuracy import Accuracy, measure_accuracy
from .blocks import compare_blocks
from .cases import Case, choose_tokens, make_cases
from .forms import SHORTCUTS, Form, folded, unfolded
from .locate import Fault, Search
from .metrics import Line, largest_difference, spread
from .reference import Reference, groups
from .report import BlockLine, Divergence, Shortcut, StepReport
from .results import Results
from .samples import Samples
from .steps import FOLDED, REFERENCE, STORED, Step, backend_step
from .streamed_network import Readers

Tapped = Mapping[str, tuple[Backend, Runtime]]  # by name: what opens tapped graphs, and the bundle on it


def open_for_verifying(bundle: Bundle, backend: str) -> Runtime | str:
    """The bundle on a backend; the reason where that cannot be had here."""
    try:
        runtime = open_sparing_runtime(bundle, backend)
    except UserError as error:
        return f"{error.what}: {error.fix}"
    if runtime.device == CPU:
        return replace(runtime, empty=Scratch(scratch_folder(bundle.path)).empty)
    return runtime


class Ledger:
    """The steps in their order: `pytorch_steps`, then `backend_step` for each backend. Each compares itself with the one before.

    checkpoint  None: the reference has the bundle's own weights
    runtimes    the bundle on every backend there is

    The reference runs when the ledger is made. Raises UserError for samples that do not fit the bundle.
    """

    def __init__(
        self,
        bundle: Bundle,
        checkpoint: Checkpoint | None,
        samples: Samples,
        runtimes: Sequence[Runtime],
        progress: Progress,
    ):
        m = bundle.manifest
        self.bundle, self.samples, self.progress = bundle, samples, progress
        self.precision = PRECISIONS[m.precision]
        self._checkpoint = prune(checkpoint, m.plan) if checkpoint else None
        self._reference = self._make_reference(self._checkpoint_readers() if checkpoint else self._bundle_readers())
        fits = Runtime("verify", m.config, m.plan, m.limits, sessions={})
        for prompt, forced in zip(samples.prompts.values(), samples.forced.values()):
            check_prompts(fits, prompt, forced)
        self.forced = choose_tokens(samples, runtimes)
        self.cases = make_cases(samples, self.forced, m.limits.max_batch)
        self._probe = next((i for i, p in enumerate(samples.prompts.values()) if p.pixel_values is not None), 0)
        self._boundaries: dict[int, Tensor] = {}  # layer -> the reference's output on the probe
        self._wanted = self._read("running the reference", self._reference, unfolded, self._keep_boundary)
        self._before = (REFERENCE, self._wanted)  # the last step that ran

    def pytorch_steps(self) -> list[StepReport]:
        """What folding changes, and what writing the weights changes."""
        form = folded if self.bundle.manifest.fold == "weights" else unfolded
        steps = []
        if form is folded:
            steps.append(self._pytorch_step(FOLDED, self._reference, form))
        if self._checkpoint:
            steps.append(self._pytorch_step(STORED, self._make_reference(self._bundle_readers()), form))
        return steps

    def backend_step(self, name: str, opened: Runtime | str) -> StepReport:
        """The bundle on a backend, or why not. A backend that fails on a case has a line that says so, and goes no further."""
        if isinstance(opened, str):
            return self._report(backend_step(name, name), {}).model_copy(update={"why_not": opened})
        step, results, lines = backend_step(opened.backend, name), [], {}
        report = self._report(step, {})
        try:
            for case in self.cases:
                with self.progress.stage(f"comparing {case.name} on {name}"):
                    lines[case.name], result = self._run(step, case, opened)
                results.append(result)
        except NoRoom as error:
            return report.model_copy(update={"why_not": f"{error.what}: {error.fix}"})
        except UserError as error:
            stage = error.where.removeprefix("graph ")
            lines[case.name] = (Line(stage=stage, error=None, tolerance=0, ok=False, note=error.what),)
        else:
            self._before = (name, results[: len(self.samples.prompts)])
        return report.model_copy(update={"cases": lines})

    def _run(self, step: Step, case: Case, runtime: Runtime) -> tuple[tuple[Line, ...], Generation]:
        """A case's lines, and what the backend gave without the folded weights: they are gone before the next ones are made."""
        got = generate(runtime, case.prompts, forced=case.forced)
        return self._lines(step, case, got), replace(got, folded={})

    def blocks(self, tapped: Tapped) -> tuple[BlockLine, ...]:
        """Every block's output on one prompt, with an image where one has, on every backend that can show it."""
        case = self.cases[self._probe]
        found = []
        for name, (backend, runtime) in tapped.items():
            with self.progress.stage(f"comparing blocks on {name}"):
                try:
                    found += compare_blocks(self.bundle, name, backend, runtime, case, self._boundaries)
                except NoRoom:
                    raise  # blocks that were not compared are not the same
                except UserError:  # a graph without the blocks that it should have
                    found.append(self._no_block(name, case))
        return tuple(found)

    def _no_block(self, step: str, case: Case) -> BlockLine:
        nothing = {"error": None, "relative": None, "cosine": None}
        tolerance, kind = self.precision.tolerance, "skipped" if 0 in self._skipped else "kept"
        return BlockLine(step=step, case=case.name, layer=0, kind=kind, tolerance=tolerance, ok=False, **nothing)

    def shortcuts(self) -> tuple[Shortcut, ...]:
        """How far the published code's own ways would be from the exact one."""
        family = get_family(self.bundle.manifest.config.family)
        found = []
        for name in family.shortcuts if self._checkpoint and self.bundle.manifest.config.kept_adapter else ():
            gains = {i: self._checkpoint.tensors[f"layers.{i}.ffn_norm.weight"].read().float() for i in self._skipped}
            results = self._read(f"running the {name}", self._reference, SHORTCUTS[name](gains))
            for case, got, want in zip(self.cases, results, self._wanted):
                error = largest_difference(got.logits, want.logits)
                relative = None if error is None else error / spread(want.logits)
                found.append(Shortcut(name=name, case=case.name, relative=relative, tolerance=self.precision.tolerance))
        return tuple(found)

    def accuracy(self, runtimes: Mapping[str, Runtime]) -> Accuracy | None:
        """The task's, where the samples are questions with labels; on backends that answer quickly, and right so far."""
        quick = {name: runtime for name, runtime in runtimes.items() if runtime.stays_open}
        if not self.samples.questions:
            return None
        family, tokenizer = get_family(self.bundle.manifest.config.family), open_tokenizer(self.bundle)
        questions = self.samples.questions
        return measure_accuracy(quick, self._reference, family, tokenizer, questions, progress=self.progress)

    def locate(self, steps: Sequence[StepReport], blocks: Sequence[BlockLine], tapped: Tapped) -> Divergence:
        """Where the first step that differs leaves the reference; its layer where the backend can show what goes on inside, and one block
        alone is off. Without a step that differs, a block's line does."""
        bad = [(step, case) for step in steps for case in self.cases if _differs(step, case)]
        if not bad:
            block = next(block for block in blocks if not block.ok)
            where = {"step": block.step, "case": block.case, "graph": "prefill"}
            return Divergence(**where, layer=block.layer, stage="block", error=block.relative)
        step, case = bad[0]
        # what is wrong in the weights is wrong wherever they run; what is wrong on a backend is looked for there
        shown = step.name if step.name in tapped else next(iter(tapped), None)
        where = {"step": step.name, "case": case.name}
        if shown and (shown == step.name or step.name in (FOLDED.name, STORED.name)):
            with self.progress.stage("looking for the first divergence"):
                fault = self._find_fault(*tapped[shown], case)
            if fault:
                return Divergence(**where, graph=fault.graph, layer=fault.layer, stage=fault.stage, error=fault.error)
        line = next(line for line in step.cases[case.name] if not line.ok)
        return Divergence(**where, graph=None, layer=None, stage=line.stage, error=line.relative)

    def _find_fault(self, backend: Backend, runtime: Runtime, case: Case) -> Fault | None:
        try:
            return Search(self.bundle, backend, runtime, self._reference, self.precision).find(
                case.prompts, case.forced
            )
        except UserError:  # a graph that does not run has been said to be one
            return None

    @property
    def _skipped(self) -> tuple[int, ...]:
        return self.bundle.manifest.plan.skipped

    def _pytorch_step(self, step: Step, reference: Reference, form: Form) -> StepReport:
        results = self._read(f"running {step.name}", reference, form)
        report = self._report(step, {case.name: self._lines(step, case, case.of(results)) for case in self.cases})
        self._before = (step.name, results)
        return report

    def _lines(self, step: Step, case: Case, got: Generation) -> tuple[Line, ...]:
        before, tolerance = case.of(self._before[1]), step.tolerance(self.precision)
        results = Results(got, case.of(self._wanted), before, tolerance, self.precision)
        return results.lines(self._reference)

    def _report(self, step: Step, lines: Mapping[str, tuple[Line, ...]]) -> StepReport:
        tolerance = step.tolerance(self.precision)
        return StepReport(
            name=step.name,
            what=step.what,
            before=self._before[0],
            tolerance=tolerance,
            reason=step.reason,
            cases=dict(lines),
        )

    def _read(self, title: str, reference: Reference, form: Form, on_block=lambda *_: None) -> list[Generation]:
        prompts = list(self.samples.prompts.values())
        layers = self.bundle.manifest.config.layers * len(groups(prompts, self.forced))
        with self.progress.stage(title, layers, "layers") as done:
            return reference.read(prompts, self.forced, done, form, on_block)

    def _keep_boundary(self, prompt: int, layer: int, x: Tensor) -> None:
        if prompt == self._probe:
            self._boundaries[layer] = x.clone()

    def _make_reference(self, readers: Readers) -> Reference:
        m = self.bundle.manifest
        return Reference(m.config, m.plan, m.limits, readers)

    def _checkpoint_readers(self) -> Readers:
        m = self.bundle.manifest
        parameters = network_parameters(self._checkpoint, m.plan, PRECISIONS["fp32"], m.limits)
        return {name: tensor.read for name, tensor in parameters.items()}

    def _bundle_readers(self) -> Readers:
        store = self.bundle.store
        return {name: lambda name=name: store.tensor(name).float() for name in store.entries}


def _differs(step: StepReport, case: Case) -> bool:
    return any(not line.ok for line in step.cases.get(case.name, ()))
