"""A bench report as tables of 80 columns."""

from rich.console import Console
from rich.text import Text

from ..bench.report import BenchReport, Comparison, Result
from ..bench.stages import ANSWER, FIRST, FOLD, FULL, PREFILL, VISION
from ..bench.timing import SHORT, WARM, Spread, Timing, duration
from .output import Table, size

HOW = (
    f"After a part is prepared, {WARM} pieces of work run uncounted; pieces of less than {SHORT * 1e3:.0f} ms run uncounted for so long at the "
    "beginning of each trial, too. A piece ends when its results are there. Ratios are medians over rounds (10th to 90th percentile). "
    "Memory is each process's own at its peak, without mapped weights."
)
FEW_PAGES = 1000  # that may come from the disk before figures are doubted
PARTS = {
    VISION: "vision",
    PREFILL: "prefill",
    FOLD: "fold",
    FIRST: "first\nstep",
    FULL: "full\ncache",
    ANSWER: "answer",
}
STYLES = {"ours": "bold blue", "bound": "yellow", "other": ""}
BAR, BESIDE = 30, 44  # characters: of the longest bar at most, and of the figures beside it


def print_report(report: BenchReport, console: Console) -> None:
    """Print every section for which something was measured."""
    ran = report.by_step()
    _print_head(report, console)
    _print_steps(report, ran, console)
    _print_parts(report, ran, console)
    _print_steady(report, ran, console)
    for title, rows in (("what is claimed", report.claims), ("where the time goes", report.causes)):
        _print_comparisons(title, rows, console)
    _print_rest(report, console)
    _print_roofline(report, console)
    _print_missing(report, console)


def _print_head(report: BenchReport, console: Console) -> None:
    work, place = report.workload, report.place
    tokens = f" Prompts of {work.prompt_tokens} tokens, answers of {work.new_tokens}." if _makes_tokens(report) else ""
    console.print(
        f"{report.bundle}: {report.precision}, fold mode {report.fold}, {report.skipped} of {report.sites} attentions skipped.{tokens} "
        f"{work.rounds} rounds."
    )
    versions = ", ".join(f"{name} {version}" for name, version in place.versions.items())
    console.print(f"{place.gpu or place.cpu}, {place.cores} cores, {size(place.memory_bytes)}; {versions}.")
    console.print(f"{HOW}\n")


def _print_steps(report: BenchReport, ran: dict[str, Result], console: Console) -> None:
    """A bar for each baseline, the quickest on top."""
    steps = {name: each.step for name, each in ran.items() if each.step}
    over = {c.of: _spread(c.ratio) for c in report.against if c.part.endswith(" x1")}
    slowest = max(step.seconds.p50 for step in steps.values())
    width = max(4, min(BAR, console.width - BESIDE - max(map(len, steps))))
    full, light = "#-" if console.options.ascii_only else "\N{FULL BLOCK}\N{MEDIUM SHADE}"
    rows = []
    for name, step in steps.items():
        role = report.role(name)
        length = max(1, round(width * step.seconds.p50 / slowest))
        bar = Text((full if role == "ours" else light) * length, STYLES[role])
        rows.append([Text(name, STYLES[role]), bar, _took(step), _took(step, "p90"), over.get(name, "")])
    title = f"a step of one row; {full} is the exported model"
    console.print(Table(title, ["", "", "median", "p90", "over the bundle's"], rows, 3))
    console.print()


def _print_parts(report: BenchReport, ran: dict[str, Result], console: Console) -> None:
    timed = [part for part in PARTS if any(part in each.parts for each in ran.values())]
    rows = [[name, *(_took(each.parts.get(part)) for part in timed)] for name, each in ran.items() if each.parts]
    if rows:
        console.print(Table("other parts, one row", ["", *(PARTS[part] for part in timed)], rows, len(timed)))
        console.print()


def _print_steady(report: BenchReport, ran: dict[str, Result], console: Console) -> None:
    unit = "tokens" if _makes_tokens(report) else "passes"
    batches = report.workload.batches
    columns = ["", "opened in", "memory", *(f"x{rows}" for rows in batches)]
    rows = []
    for name, each in ran.items():
        memory = size(each.memory.private_bytes) if each.memory else ""
        opened = "" if each.opened_seconds is None else duration(each.opened_seconds)
        rates = {steady.rows: steady.tokens_per_second.p50 for steady in each.steady}
        rows.append([name, opened, memory, *(f"{rates[n]:.1f}" if n in rates else "" for n in batches)])
    title = f"{unit} per second by rows at once"
    console.print(Table(title, columns, rows, len(columns) - 1))
    console.print()


def _makes_tokens(report: BenchReport) -> bool:
    return any(PREFILL in each.parts for each in report.baselines.values())


def _print_comparisons(title: str, found: tuple[Comparison, ...], console: Console) -> None:
    if not found:
        return
    rows = [[f"{c.name}\n  {c.of} to {c.to}", duration(c.saved_seconds.p50), _spread(c.ratio)] for c in found]
    console.print(Table(f"{title}, in a step of one row", ["", "saved", "ratio"], rows, 2))
    console.print()


def _print_rest(report: BenchReport, console: Console) -> None:
    if kv := report.kv:
        console.print(
            f"Without the KV cache of skipped attentions a step is {_shorter(kv.saved_seconds)} at {kv.full} slots against {kv.short}, "
            f"and a row takes {size(kv.saved_bytes)} less."
        )
    if even := report.break_even:
        pays = (
            "no saving beyond the spread, so it does not pay back"
            if even.tokens is None
            else f"folding pays back after {even.tokens:,} tokens"
        )
        console.print(
            f"Folding takes {even.fold_seconds.p50 * 1e3:.1f} ms per prompt, and against a low-rank step a folded one is "
            f"{_shorter(even.saved_per_step_seconds)}: {pays}."
        )
    if report.kv or report.break_even:
        console.print()


def _print_roofline(report: BenchReport, console: Console) -> None:
    if not report.roofline or not report.rates:
        return
    rows = [
        [
            roof.part.removeprefix("decode, "),
            size(roof.bytes),
            f"{roof.flops / 1e9:.2f} GFLOP",
            roof.bound,
            duration(roof.least_seconds),
            _spread(roof.share),
        ]
        for roof in report.roofline
    ]
    read, multiplied = report.rates.read_bytes_per_second.p50, report.rates.product_flops_per_second.p50
    title = f"{report.subject} against the limit: {read / 1e9:.1f} GB/s read, {multiplied / 1e9:.0f} GFLOP/s multiplied"
    columns = ["", "to move", "to compute", "bound by", "at least", "share reached"]
    console.print(Table(title, columns, rows, len(columns) - 1))
    console.print()


def _print_missing(report: BenchReport, console: Console) -> None:
    """Each reason once, with all that it keeps from running."""
    reasons: dict[str, list[str]] = {}
    for name, each in report.baselines.items():
        for note in each.notes:
            console.print(f"{name}: {note}")
        if each.why_not:
            reasons.setdefault(each.why_not, []).append(name)
        for part, why in each.refused.items():
            reasons.setdefault(why, []).append(f"{name} ({part})")
    for reason, names in reasons.items():
        console.print(f"not run: {', '.join(names)}: {reason}")
    reading = [name for name, each in report.baselines.items() if each.disk_reads > FEW_PAGES]
    if reading:
        console.print(
            f"Memory was too small for all baselines: weights of {', '.join(reading)} were read from the disk again while they were timed. "
            "Compare with fewer (--against)."
        )


def _took(timing: Timing | None, which: str = "p50") -> str:
    return "" if timing is None else duration(getattr(timing.seconds, which))


def _spread(values: Spread) -> str:
    return f"{values.p50:.3f} ({values.p10:.3f} to {values.p90:.3f})"


def _shorter(saved: Spread) -> str:
    """7.31 ms longer (saves -41.27 to 22.51 ms)"""
    word = "shorter" if saved.p50 >= 0 else "longer"
    return f"{abs(saved.p50) * 1e3:.2f} ms {word} (saves {saved.p10 * 1e3:.2f} to {saved.p90 * 1e3:.2f} ms)"
