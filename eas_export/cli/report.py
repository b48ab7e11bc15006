"""The parity ledger as a table."""

from rich.console import Console

from ..parity.report import ParityReport
from .output import VERDICT_COLOURS, table


def print_report(report: ParityReport, console: Console) -> None:
    rows = []
    for case, lines in report.cases.items():
        for line in lines:
            mark = f"[{VERDICT_COLOURS[line.ok]}]{'same' if line.ok else 'DIFFERS'}[/]"
            rows.append([case, line.stage, mark, line.note, f"{line.error:.1e}", f"{line.tolerance:.1e}"])
    title = f"{report.backend}, {report.precision}, fold {report.fold}, against {report.reference}"
    console.print(table(title, ["prompt", "stage", "", "", "largest error", "allowed"], rows, numbers=2))
    for line in report.files:
        if not line.ok:
            console.print(f"[red]damaged[/] {line.stage}: its sha256 is not the manifest's")
    where = f", first at {report.first_failure}" if report.first_failure else ""
    console.print(f"verdict: [bold {VERDICT_COLOURS[report.ok]}]{report.verdict}[/]{where}")
