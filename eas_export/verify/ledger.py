"""The steps of the ledger, run: from PyTorch with its adapters in place, over the fold and the stored weights, to every backend.

Neither side holds the model: PyTorch goes block by block, and the bundle runs mapped, or in parts where its backend would copy it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..backends.contract import Backend
from ..backends.runtime import Runtime
from ..bundle.bundle import Bundle
from ..checkpoint.checkpoint import Checkpoint
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..evaluate.accuracy import Accuracy, measure_accuracy
from ..families import get_family
from ..generation.conversation import check_prompts
from ..generation.generate import Generation, generate
from ..generation.text_model import open_tokenizer
from ..networks.parameters import network_parameters
from ..networks.prune import prune
from .blocks import compare_blocks
from .cases import Case, choose_tokens, make_cases
from .forms import SHORTCUTS, Form, folded, unfolded
from .locate import Search
from .metrics import Line, largest_difference, spread
from .reference import Reference, groups
from .report import BlockLine, Shortcut, StepReport
from .results import Results
from .samples import Samples, read_samples
from .staged_ledger import Fault, StagedLedger
from .steps import FOLDED, REFERENCE, STORED, Step
from .streamed_network import Readers


class Ledger(StagedLedger):
    """The steps in their order: `pytorch_steps`, then `backend_step` for each backend. Each compares itself with the one before.

    checkpoint  None: the reference has the bundle's own weights
    runtimes    the bundle on every backend there is

    The reference runs when the ledger is made. Raises UserError for samples that do not fit the bundle.
    """

    read_samples = staticmethod(read_samples)
    blocks_graph = "prefill"

    def __init__(
        self,
        bundle: Bundle,
        checkpoint: Checkpoint | None,
        samples: Samples,
        runtimes: Sequence[Runtime],
        progress: Progress,
    ):
        super().__init__(bundle, progress)
        m = bundle.manifest
        self.samples = samples
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
        self.before = (REFERENCE, self._wanted)

    def pytorch_steps(self) -> list[StepReport]:
        """What folding changes, and what writing the weights changes."""
        form = folded if self.bundle.manifest.fold == "weights" else unfolded
        steps = []
        if form is folded:
            steps.append(self._pytorch_step(FOLDED, self._reference, form))
        if self._checkpoint:
            steps.append(self._pytorch_step(STORED, self._make_reference(self._bundle_readers()), form))
        return steps

    def run_case(self, step: Step, case: Case, runtime: Runtime) -> tuple[tuple[Line, ...], Generation]:
        """A case's lines, and what the backend gave without the folded weights: they are gone before the next ones are made."""
        got = generate(runtime, case.prompts, forced=case.forced)
        return self._lines(step, case, got), replace(got, folded={})

    def shortcuts(self) -> tuple[Shortcut, ...]:
        """How far the published code's own ways would be from the exact one."""
        family = get_family(self.bundle.manifest.config.family)
        found = []
        for name in family.shortcuts if self._checkpoint and self.bundle.manifest.config.has_adapters else ():
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
        return measure_accuracy(
            quick, self._reference.config, self._reference.read, family, tokenizer, questions, progress=self.progress
        )

    def block_lines(self, name: str, backend: Backend, runtime: Runtime) -> tuple[BlockLine, ...]:
        """On one prompt, with an image where one has."""
        return compare_blocks(self.bundle, name, backend, runtime, self.cases[self._probe], self._boundaries)

    def find_fault(self, backend: Backend, runtime: Runtime, case: Case) -> Fault | None:
        return Search(self.bundle, backend, runtime, self._reference, self.precision).find(case.prompts, case.forced)

    @property
    def _skipped(self) -> tuple[int, ...]:
        return self.bundle.manifest.plan.skipped

    def _pytorch_step(self, step: Step, reference: Reference, form: Form) -> StepReport:
        results = self._read(f"running {step.name}", reference, form)
        report = self.report(step, {case.name: self._lines(step, case, case.of(results)) for case in self.cases})
        self.before = (step.name, results)
        return report

    def _lines(self, step: Step, case: Case, got: Generation) -> tuple[Line, ...]:
        before, tolerance = case.of(self.before[1]), step.tolerance(self.precision)
        results = Results(got, case.of(self._wanted), before, tolerance, self.precision)
        return results.lines(self._reference)

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
