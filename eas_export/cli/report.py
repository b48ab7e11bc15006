"""The parity ledger as a table."""

from rich.console import Console

from ..parity.report import ParityReport
from .output import judged, table


def print_report(report: ParityReport, console: Console) -> None:
    rows = [
        [
            case,
            line.stage,
            judged(line.ok, "same" if line.ok else "DIFFERS"),
            line.note,
            f"{line.error:.1e}",
            f"{line.tolerance:.1e}",
        ]
        for case, lines in report.cases.items()
        for line in lines
    ]
    title = f"{report.backend}, {report.precision}, fold {report.fold}, against {report.reference}"
    if rows:
        console.print(table(title, ["prompt", "stage", "", "", "largest error", "allowed"], rows, numbers=2))
    for line in report.files:
        if not line.ok:
            console.print(judged(False, f"damaged {line.stage}: its sha256 is not the manifest's; nothing was run"))
    where = f", first at {report.first_failure}" if report.first_failure else ""
    console.print(judged(report.ok, f"verdict: {report.verdict}{where}"))
