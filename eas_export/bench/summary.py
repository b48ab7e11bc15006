"""From trials to a report: all of the arithmetic, and none of the measuring."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from ..bundle.bundle import Bundle
from .baselines import Baseline, Comparisons, Kind, kind_of
from .report import BreakEven, Comparison, KvSaving, Rates, Result, Roof, Steady
from .roofline import limit_of, work_of
from .schedule import Measurements
from .settings import Workload
from .stages import DECODE, ENCODE, FOLD, FULL, PREFILL, PRODUCT, READ, VISION, slots_of
from .timing import Trials, by_round, difference, inverse, quotient, spread, timing

MACHINE = "machine"  # the name under which the machine's probes are timed

KV = ("onnxruntime-unskipped", "onnxruntime-lowrank")  # with every attention, and without the skipped ones
FOLDING = ("onnxruntime-lowrank", "onnxruntime-weights")


@dataclass(frozen=True)
class Summary:
    """Makes a report of the trials of a bundle and its baselines. amounts: probe -> bytes or operations of one piece of it"""

    bundle: Bundle
    workload: Workload
    measured: Measurements
    amounts: Mapping[str, int]

    @property
    def kind(self) -> Kind:
        return kind_of(self.bundle.manifest.config)

    @property
    def step(self) -> str:
        """The part that is a steady step of one row."""
        return self.kind.step.format(1)

    def trials(self, name: str, part: str, timed: str | None = None) -> Trials | None:
        """A baseline's trials of a part, in the rounds of the timed part (by default the same); None where there are none."""
        return self.measured.trials.get(timed or part, {}).get((name, part))

    def sections(self, subject: str) -> dict[str, Any]:
        """The report's fields beside the baselines' own figures."""
        return {
            "rates": self.rates(),
            "against": self.against(subject),
            "claims": self.rows_of(self.kind.claims),
            "causes": self.rows_of(self.kind.causes),
            "kv": self.kv(),
            "break_even": self.break_even(),
            "roofline": self.roofline(subject),
        }

    def result(self, name: str, baseline: Baseline) -> Result:
        """Of a baseline that was timed."""
        steps = {self.kind.step.format(rows): rows for rows in self.workload.batches}
        timed = {part: trials for part in self.measured.trials if (trials := self.trials(name, part))}
        steady = []
        for part, rows in steps.items():
            if part in timed:
                step = timing(timed[part])
                steady.append(Steady(rows=rows, step=step, tokens_per_second=inverse(step.seconds, rows)))
        parts = {part: timing(trials) for part, trials in timed.items() if part not in steps}
        refused, disk_reads = self.measured.refused.get(name, {}), self.measured.disk_reads[name]
        return Result(what=baseline.what, parts=parts, steady=tuple(steady), refused=refused, disk_reads=disk_reads)

    def compared(self, name: str, part: str, of: str, to: str) -> Comparison | None:
        """None where one of the two was not timed."""
        before, after = self.trials(of, part), self.trials(to, part)
        if not before or not after:
            return None
        ratio, saved = quotient(before, after), difference(before, after)
        return Comparison(name=name, part=part, of=of, to=to, ratio=ratio, saved_seconds=saved)

    def against(self, subject: str) -> tuple[Comparison, ...]:
        """Each baseline's parts over the same parts of the subject."""
        pairs = [(part, name) for part, taken in self.measured.trials.items() for name, timed in taken if timed == part]
        found = [
            self.compared(f"{name} against the bundle", part, name, subject) for part, name in pairs if name != subject
        ]
        return tuple(filter(None, found))

    def rows_of(self, table: Comparisons) -> tuple[Comparison, ...]:
        """Claims or causes, those whose baselines were timed."""
        found = [self.compared(name, self.step, of, to) for name, of, to in table]
        return tuple(filter(None, found))

    def kv(self) -> KvSaving | None:
        """From steps at a full and at a short cache, timed in the same rounds."""
        taken = [self.trials(name, part, timed=FULL) for name in KV for part in (FULL, self.step)]
        if not all(taken):
            return None
        m = self.bundle.manifest
        most, accounts = m.limits.max_tokens, m.accounts
        saved = spread([(a - b) - (c - d) for a, b, c, d in by_round(*taken)])
        lost = accounts.before.kv_bytes_per_token - accounts.after.kv_bytes_per_token
        short = slots_of(self.step, self.workload, most)
        return KvSaving(full=most, short=short, saved_seconds=saved, saved_bytes=most * lost)

    def break_even(self) -> BreakEven | None:
        """Folding costs once per prompt, and saves in every step: from the fold and both steps, timed in the same rounds."""
        beside, folded = (self.trials(name, self.step, timed=FOLD) for name in FOLDING)
        fold = self.trials(FOLDING[1], FOLD)
        if not (beside and folded and fold):
            return None
        costs, saved = timing(fold).seconds, difference(beside, folded)
        tokens = ceil(costs.p50 / saved.p50) if saved.p10 > 0 else None
        return BreakEven(fold_seconds=costs, saved_per_step_seconds=saved, tokens=tokens)

    def rates(self) -> Rates | None:
        """What the machine reached in the rounds of the steady steps; None where its probes were not timed."""
        rounds = self._rates_by_round(self.step)
        if not rounds:
            return None
        reads, products = zip(*rounds)
        return Rates(read_bytes_per_second=spread(reads), product_flops_per_second=spread(products))

    def roofline(self, subject: str) -> tuple[Roof, ...]:
        """The subject's graphs, each against what the machine reached in the same rounds."""
        return tuple(
            self._roof(subject, part, graph, sizes)
            for part, graph, sizes in self._graph_runs()
            if self.trials(subject, part) and self._rates_by_round(part)
        )

    def _graph_runs(self) -> list[tuple[str, str, dict[str, int]]]:
        """Part, the graph that it runs once, and the sizes that it is run with."""
        most, prompt = self.bundle.manifest.limits.max_tokens, self.workload.prompt_tokens
        steps = [(DECODE.format(rows), rows) for rows in self.workload.batches]
        one = {"B": 1, "S": prompt, "M": 1, "N": 1}
        decodes = [(part, "decode", {"B": rows, "T": slots_of(part, self.workload, most)}) for part, rows in steps]
        encodes = [(ENCODE.format(rows), "encode", {"B": rows, "M": rows, "N": rows}) for rows in self.workload.batches]
        return [
            (VISION, "vision", one),
            (PREFILL, "prefill", one | {"T": prompt}),
            (FOLD, "fold", one),
            *decodes,
            (FULL, "decode", {"B": 1, "T": most}),
            *encodes,
        ]

    def _roof(self, subject: str, part: str, graph: str, sizes: dict[str, int]) -> Roof:
        work, rounds = work_of(self.bundle, graph, sizes), self._rates_by_round(part)
        limits = [limit_of(work, *rates) for rates in rounds]
        measured = [seconds for (seconds,) in by_round(self.trials(subject, part))]
        least = sorted(limits, key=lambda limit: limit.seconds)[len(limits) // 2]
        return Roof(
            part=part,
            graph=graph,
            bytes=work.bytes,
            flops=work.flops,
            bound=least.bound,
            least_seconds=least.seconds,
            share=spread([limit.seconds / seconds for limit, seconds in zip(limits, measured, strict=True)]),
        )

    def _rates_by_round(self, timed: str) -> list[tuple[float, float]]:
        """(bytes per second, operations per second) of each round of a timed part: the best reader's and the fastest product's."""
        taken = self.measured.trials.get(timed, {})
        probes = [(part, trials) for (name, part), trials in taken.items() if name == MACHINE]
        if not all(any(part.startswith(kind) for part, _ in probes) for kind in (READ, PRODUCT)):
            return []
        rounds = by_round(*(trials for _, trials in probes))

        def best(kind: str, seconds: tuple[float, ...]) -> float:
            return max(self.amounts[part] / took for (part, _), took in zip(probes, seconds) if part.startswith(kind))

        return [(best(READ, seconds), best(PRODUCT, seconds)) for seconds in rounds]
