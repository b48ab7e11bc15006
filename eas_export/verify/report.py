"""The result of a verification as data: `verify --json`, reports/verify.json in a bundle, and the page's numbers.

Its JSON Schema is report.schema.json.
"""

from enum import StrEnum

from pydantic import Field, FiniteFloat

from ..core.record import Record
from ..evaluate.accuracy import Accuracy
from .lines import Line, Measured

SCHEMA_VERSION = 1


class Verdict(StrEnum):
    """SELF_CONSISTENT: graphs and weights fit together, but no checkpoint was given to compare them with"""

    SAME = "same as the checkpoint"
    SELF_CONSISTENT = "self-consistent"
    DIFFERS = "differs"
    NOT_RUN = "not run"


class FileLine(Record):
    """One file of the bundle: whether its sha256 is the manifest's, or the manifest's own digest is right."""

    name: str
    ok: bool


class StepReport(Record):
    """One step from the checkpoint to the deployed bundle, compared with the reference and with the step before it.

    name       "pytorch, folded", "pytorch, the bundle's weights", or the backend
    what       a description of the step
    before     the name of the step before
    tolerance  largest error allowed against the step before, in units of the reference's standard deviation; reason: why so large
    why_not    why the step was not run; empty where it was
    cases      prompt, or batch of prompts -> its lines in the order of computation
    """

    name: str
    what: str
    before: str
    tolerance: FiniteFloat
    reason: str
    why_not: str = ""
    cases: dict[str, tuple[Line, ...]] = Field(default_factory=dict)

    @property
    def ran(self) -> bool:
        return not self.why_not

    @property
    def ok(self) -> bool:
        return all(line.ok for lines in self.cases.values() for line in lines)

    @property
    def worst(self) -> tuple[str, Line] | None:
        """The case and line that use most of their tolerance; None without any."""
        lines = [(case, line) for case, lines in self.cases.items() for line in lines]
        return max(lines, key=lambda each: each[1].used, default=None)


class WrongTensor(Record):
    """A stored tensor that is not the checkpoint's. error: largest difference in units of its standard deviation; None without a number"""

    name: str
    error: Measured


class WeightsLine(Record):
    """Stored tensors of one kind, beside the same made from the checkpoint again (verify/weights.py).

    tensors, differ  how many there are, and how many are wrong; named: the first of these
    """

    kind: str
    tensors: int
    differ: int
    named: tuple[WrongTensor, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.differ


class BlockLine(Record):
    """The output of one block in the prefill of one prompt, on one backend, against the reference's.

    part      of the network, where it has several rows of blocks ("text stream"); empty where it has one
    kind      kept or skipped: whether the block has its attention, or all of them
    relative  largest error in the output's unit (metrics.stream_units), in most models its standard deviation; tolerance: in the same units
    """

    step: str
    case: str
    part: str = ""
    layer: int
    kind: str
    error: Measured
    relative: Measured
    cosine: Measured
    tolerance: FiniteFloat
    ok: bool


class PublishedDeviation(Record):
    """How far the published code's adapter mode is from the exact one on this prompt: for information, not part of the verdict.

    relative   largest difference of the logits after any fed token, in units of the reference's standard deviation
    tolerance  the precision's, for scale
    """

    name: str
    case: str
    relative: Measured
    tolerance: FiniteFloat


class Divergence(Record):
    """Where a step first leaves the reference.

    graph  vision, prefill, fold, decode or encode; None where no part alone is at fault: errors added up, or the backend does not show its parts
    part, layer  the block, see BlockLine; layer: None outside blocks
    stage  in EAS terms: "norm", "router", "pooled", "adapter", "q", "key cache", "attention", "gate", "down", "fold of ffn.gate.bias" ...
    error  in units of the reference's standard deviation: the stage's own, with the reference run on the inputs that the stage had;
           without a graph, the output's

    For a damaged file and a wrong stored tensor, step and case are empty, and stage is the file's or the tensor's name.
    """

    step: str
    case: str
    graph: str | None
    part: str = ""
    layer: int | None
    stage: str
    error: Measured


class ControlReport(Record):
    """A known fault, planted in a copy of the bundle to check that verification finds it.

    why_not  why the fault does not apply to the bundle; empty where it does
    graph, part, layer  where it was planted
    found    where verification of the copy located a difference; None where it found none
    ok       whether that is in the planted layer, at a stage that the fault shows in; True where the fault does not apply
    """

    name: str
    what: str
    why_not: str = ""
    graph: str | None = None
    part: str = ""
    layer: int | None = None
    found: Divergence | None = None
    ok: bool = True


class ParityReport(Record):
    """reference: what everything is compared with; required: backends that had to run; weights: of the store, where there is a checkpoint;
    blocks: of one prompt, for each backend that runs graphs as they are; shortcuts: for information; controls: planted faults, where they were asked for"""

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    reference: str
    precision: str
    fold: str
    files: tuple[FileLine, ...]
    steps: tuple[StepReport, ...]
    required: tuple[str, ...] = ()
    weights: tuple[WeightsLine, ...] = ()
    blocks: tuple[BlockLine, ...] = ()
    shortcuts: tuple[PublishedDeviation, ...] = ()
    accuracy: Accuracy | None = None
    controls: tuple[ControlReport, ...] = ()
    first_divergence: Divergence | None = None

    @property
    def ok(self) -> bool:
        """Whether everything that was required was run, and is the same."""
        return self.exit_code == 0

    @property
    def damaged(self) -> tuple[str, ...]:
        return tuple(line.name for line in self.files if not line.ok)

    @property
    def all_same(self) -> bool:
        """Whether everything that was compared is within its tolerance."""
        return not self.damaged and all(each.ok for each in (*self.steps, *self.weights, *self.blocks))

    @property
    def missing(self) -> tuple[str, ...]:
        """Backends that were required but not run."""
        ran = {step.name for step in self.steps if step.ran}
        return tuple(name for name in self.required if name not in ran)

    @property
    def exit_code(self) -> int:
        """0 the same, 1 differs or missed a planted fault, 3 a required backend was not run"""
        if self.verdict == Verdict.DIFFERS or not all(control.ok for control in self.controls):
            return 1
        return 3 if self.missing or self.verdict == Verdict.NOT_RUN else 0
