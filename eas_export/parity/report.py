"""What verification found."""

from enum import StrEnum

from ..config import Record
from .metrics import Comparison


class Verdict(StrEnum):
    SAME = "same as the checkpoint"
    SELF_CONSISTENT = (
        "self-consistent"  # no checkpoint was given: graphs and weights fit together, whatever they came from
    )
    DIFFERS = "differs"


class ParityReport(Record):
    """reference: what the bundle was compared with; cases: a ledger per prompt, stage by stage"""

    verdict: Verdict
    reference: str
    backend: str
    precision: str
    fold: str
    files: tuple[Comparison, ...]
    cases: dict[str, tuple[Comparison, ...]]

    @property
    def ok(self) -> bool:
        return self.verdict != Verdict.DIFFERS

    @property
    def first_failure(self) -> str | None:
        """The first stage that failed, in the order of computation."""
        for case, lines in {"files": self.files, **self.cases}.items():
            for line in lines:
                if not line.ok:
                    return f"{case}: {line.stage}"
        return None
