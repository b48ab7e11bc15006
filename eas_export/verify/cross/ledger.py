"""The steps of a cross-encoder's ledger: from PyTorch with its adapters in place, over the offline fold and the stored weights, to every
backend.

The network is small enough to be held as a whole: a checkpoint's tensors are mapped, and only what is folded is memory of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...backends.contract import Backend
from ...backends.runtime import Runtime, Tensors
from ...bundle.bundle import Bundle
from ...checkpoint.checkpoint import Checkpoint
from ...core.precision import PRECISIONS
from ...core.progress import Progress
from ...generation.encode import encode
from ...networks.cross_encoder.modules import CrossEncoder
from ...networks.cross_encoder.pairs import Pairs, join_pairs
from ...networks.cross_encoder.parameters import unfolded_parameters
from ...networks.parameters import network_parameters
from ...networks.prune import prune
from ..cases import batches
from ..metrics import Line, compare, spread
from ..report import BlockLine, StepReport
from ..staged_ledger import Fault, StagedLedger
from ..steps import FOLDED, REFERENCE, STORED, Step
from .locate import CrossSearch
from .network import Block, Readers, answer, blocks_of, open_folded, open_unfolded, skips_any, watched
from .results import CrossResults, units
from .samples import read_samples
from .taps import block_taps, run_tapped

FOLDED_OFFLINE = replace(
    FOLDED,
    what="the same weights in PyTorch in float32, the adapters before attentions and feed-forward networks folded into them",
)


@dataclass(frozen=True)
class Case:
    """rows: which of all samples; pairs: these as one batch"""

    name: str
    rows: slice
    pairs: Pairs


class CrossLedger(StagedLedger):
    """checkpoint  None: the reference has the bundle's own weights

    The reference runs when the ledger is made.
    """

    read_samples = staticmethod(read_samples)
    blocks_graph = "encode"

    def __init__(
        self,
        bundle: Bundle,
        checkpoint: Checkpoint | None,
        samples: Mapping[str, Pairs],
        runtimes: Sequence[Runtime],
        progress: Progress,
    ):
        super().__init__(bundle, progress)
        self._checkpoint = prune(checkpoint, bundle.manifest.plan) if checkpoint else None
        self._samples = list(samples.values())
        self.cases = [Case(name, slice(i, i + 1), pair) for i, (name, pair) in enumerate(samples.items())]
        for name, rows in batches(len(samples), bundle.manifest.limits.max_batch):
            self.cases.append(Case(name, rows, join_pairs(self._samples[rows])))
        self._reference = self._open_reference()
        self._boundaries: dict[Block, Tensor] = {}
        with progress.stage("running the reference"):
            with watched(self._reference, self._blocks, self._boundaries.__setitem__):
                first = answer(self._reference, self._samples[0])
            self._wanted = [first, *(answer(self._reference, pair) for pair in self._samples[1:])]
        self._units = units(self._wanted)
        self.before = (REFERENCE, self._wanted)

    def pytorch_steps(self) -> list[StepReport]:
        if not self._checkpoint:
            return []
        m = self.bundle.manifest
        folded = network_parameters(self._checkpoint, m.plan, PRECISIONS["fp32"], m.limits)
        return [
            self._pytorch_step(FOLDED_OFFLINE, {name: tensor.read for name, tensor in folded.items()}),
            self._pytorch_step(STORED, self._stored()),
        ]

    def run_case(self, step: Step, case: Case, runtime: Runtime) -> tuple[tuple[Line, ...], Tensors]:
        got = encode(runtime, case.pairs)
        return self._lines(step, case, got), got

    def block_lines(self, name: str, backend: Backend, runtime: Runtime) -> tuple[BlockLine, ...]:
        """On the first sample."""
        m = self.bundle.manifest
        taps = block_taps(self.bundle, self._blocks)
        _, values = run_tapped(self.bundle, backend, runtime, self._samples[0], taps)
        tolerance, lines = self.precision.tolerance, []
        for block, want in self._boundaries.items():
            line = compare("", values[block.name], want, tolerance * spread(want))
            lines.append(
                BlockLine(
                    step=name,
                    case=self.cases[0].name,
                    part=block.part,
                    layer=block.layer,
                    kind="skipped" if skips_any(m.config, m.plan, block) else "kept",
                    error=line.error,
                    relative=line.relative,
                    cosine=line.cosine,
                    tolerance=tolerance,
                    ok=line.ok,
                )
            )
        return tuple(lines)

    def find_fault(self, backend: Backend, runtime: Runtime, case: Case) -> Fault | None:
        pairs = case.pairs.part(0, 1)
        return CrossSearch(self.bundle, backend, runtime, self._reference, self.precision).find(pairs)

    @property
    def _blocks(self) -> list[Block]:
        return blocks_of(self.bundle.manifest.config)

    def _open_reference(self) -> CrossEncoder:
        m = self.bundle.manifest
        if not self._checkpoint:
            return open_folded(m, self._stored())
        parameters = unfolded_parameters(self._checkpoint, m.plan)
        return open_unfolded(m, {name: tensor.read for name, tensor in parameters.items()})

    def _stored(self) -> Readers:
        store = self.bundle.store
        return {name: lambda name=name: store.tensor(name).float() for name in store.entries}

    def _pytorch_step(self, step: Step, parameters: Readers) -> StepReport:
        with self.progress.stage(f"running {step.name}"):
            network = open_folded(self.bundle.manifest, parameters)
            results = [answer(network, pair) for pair in self._samples]
        report = self.report(step, {case.name: self._lines(step, case, _of(case, results)) for case in self.cases})
        self.before = (step.name, results)
        return report

    def _lines(self, step: Step, case: Case, got: Tensors) -> tuple[Line, ...]:
        want, before = _of(case, self._wanted), _of(case, self.before[1])
        return CrossResults(got, want, before, self._units, step.tolerance(self.precision), self.precision).lines()


def _of(case: Case, results: list[Tensors]) -> Tensors:
    """The case's part of every sample's own results."""
    mine = results[case.rows]
    return {name: torch.cat([each[name] for each in mine]) for name in mine[0]}
