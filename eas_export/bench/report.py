"""What was measured, as data: the form of `bench --json`. Its JSON Schema lies beside this file (report.schema.json).

Seconds are of single pieces of work (timing.py); ratios are made round by round, so that they hold on a busy machine, too.
"""

from math import inf
from typing import Literal

from pydantic import Field, FiniteFloat

from ..core.record import Record
from ..networks.graphs import every_fold_mode
from .settings import Workload
from .timing import Spread, Timing

SCHEMA_VERSION = 2


class Place(Record):
    """Where it was measured. cpu, gpu: their names; gpu: None where all ran on the CPU; cores: of the machine; threads: that PyTorch and the
    probes use; versions: package -> version"""

    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    gpu: str | None
    versions: dict[str, str]


class Memory(Record):
    """Of a baseline's process, at its peak.

    private_bytes  the most that was seen after a trial, without mapped files
    peak_bytes     resident, with pages of mapped files, which others may share
    device_bytes   the most that PyTorch had allocated on the GPU, without what other libraries take there; None on a CPU
    """

    private_bytes: int
    peak_bytes: int
    device_bytes: int | None


class Steady(Record):
    """A decode step, or one pass, with so many rows at once. tokens_per_second: of all rows together; passes for a network without tokens"""

    rows: int
    step: Timing
    tokens_per_second: Spread


class Result(Record):
    """One baseline.

    why_not         why it was not run; empty where it was
    notes           what a reader of its figures should know
    opened_seconds  to open the model and import its libraries, but for PyTorch, which was imported before
    parts           part -> its timing, but for steady steps
    steady          by rows
    refused         part -> why it was not timed, where others were
    disk_reads      pages of its weights that were read from the disk while it was timed: more than a few mean that memory was too small
                    for all baselines, and that the disk was timed
    """

    what: str
    why_not: str = ""
    notes: tuple[str, ...] = ()
    opened_seconds: FiniteFloat | None = None
    memory: Memory | None = None
    parts: dict[str, Timing] = Field(default_factory=dict)
    steady: tuple[Steady, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    disk_reads: int = 0

    @property
    def step(self) -> Timing | None:
        """A steady step of one row."""
        return next((steady.step for steady in self.steady if steady.rows == 1), None)


class Comparison(Record):
    """One baseline's part against another's, round by round.

    ratio          of / to: how many times as fast `to` is
    saved_seconds  of - to
    """

    name: str
    part: str
    of: str
    to: str
    ratio: Spread
    saved_seconds: Spread


class KvSaving(Record):
    """What the KV cache that skipped attentions no longer have would cost: a step at a full cache takes longer than at a short one.

    full, short    slots of the two caches
    saved_seconds  of a step: what the longer cache costs with every attention, less what it costs without the skipped ones
    saved_bytes    of the caches, per row, when they are full
    """

    full: int
    short: int
    saved_seconds: Spread
    saved_bytes: int


class BreakEven(Record):
    """When folding pays, for one prompt. tokens: decoded after it, None where a folded step is not faster beyond the spread"""

    fold_seconds: Spread
    saved_per_step_seconds: Spread
    tokens: int | None


class Rates(Record):
    """What the machine reached in the rounds of the steady steps: bytes read by the best reader, operations of the fastest matrix product"""

    read_bytes_per_second: Spread
    product_flops_per_second: Spread


class Roof(Record):
    """One graph of the bundle against the machine's limit.

    bytes, flops      that it has to move and to compute at least, from shapes (roofline.py)
    bound             memory or arithmetic: which of the two takes longer at the measured rates
    least_seconds     how long that takes
    share             least_seconds / measured seconds
    """

    part: str
    graph: str
    bytes: int
    flops: int
    bound: str
    least_seconds: FiniteFloat
    share: Spread


class BenchReport(Record):
    """baselines: by name, the bundle itself among them as `subject`; against: the others' parts over the subject's; claims, causes: see
    baselines.Kind"""

    schema_version: int = SCHEMA_VERSION
    bundle: str
    subject: str
    precision: str
    fold: str
    skipped: int
    sites: int
    workload: Workload
    place: Place
    rates: Rates | None
    baselines: dict[str, Result]
    against: tuple[Comparison, ...] = ()
    claims: tuple[Comparison, ...] = ()
    causes: tuple[Comparison, ...] = ()
    kv: KvSaving | None = None
    break_even: BreakEven | None = None
    roofline: tuple[Roof, ...] = ()

    def role(self, name: str) -> Literal["ours", "bound", "other"]:
        """ours: the bundle itself, and its backend in another fold mode; bound: the same graphs without adapters"""
        backend = self.subject.partition(f"-{self.fold}")[0]
        if any(name.startswith(f"{backend}-{mode}") for mode in every_fold_mode()):
            return "ours"
        return "bound" if name.endswith("-floor") else "other"

    def by_step(self) -> dict[str, Result]:
        """Those that were run, the quickest step first, those without a step last."""
        ran = {name: each for name, each in self.baselines.items() if not each.why_not}
        return dict(sorted(ran.items(), key=lambda item: item[1].step.seconds.p50 if item[1].step else inf))
