"""The phrases and sentences that a report has in the terminal and on the page."""

from ..bundle.bundle import BUILD_OR_COPY
from ..bundle.manifest import MANIFEST
from .metrics import number
from .report import Divergence, ParityReport, Verdict


def exit_meaning(report: ParityReport) -> str:
    """exit 0: every output is within its tolerance"""
    if report.damaged:
        why = "damaged files, nothing was run"
    elif report.verdict == Verdict.DIFFERS:
        why = "not every output is within its tolerance" if _outputs_differ(report) else "stored weights differ"
    elif report.exit_code == 1:
        why = "a planted fault was not found"
    elif report.verdict == Verdict.NOT_RUN:
        why = "no backend ran the bundle's graphs"
    elif report.missing:
        why = "a required backend was not run"
    else:
        why = "every output is within its tolerance"
    return f"exit {report.exit_code}: {why}"


def _outputs_differ(report: ParityReport) -> bool:
    return not all(each.ok for each in (*report.steps, *report.blocks))


def reasons(report: ParityReport) -> list[str]:
    """What explains the verdict, a sentence each."""
    if report.damaged:
        changed = {MANIFEST: f"{MANIFEST} was changed after the bundle was built: its digest does not match"}
        damaged = [
            changed.get(name, f"damaged file {name}: its sha256 is not the manifest's") for name in report.damaged
        ]
        return [*damaged, BUILD_OR_COPY]
    found = []
    if report.first_divergence:
        found.append(f"first divergence: {place(report.first_divergence)}")
        found += filter(None, [own_error(report.first_divergence)])
    found += [f"required but not run: {each}" for each in missing(report)]
    if report.verdict == Verdict.SELF_CONSISTENT:
        found.append("no checkpoint was given (--ckpt): this shows only that the graphs and the weights fit together")
    return found


def share_of_tolerance(used: float) -> str:
    """38 % of its tolerance"""
    if used == float("inf"):
        return "beyond its tolerance"
    if used >= 10:
        return f"{used:,.0f} times its tolerance" if used < 1e6 else f"{used:.0e} times its tolerance"
    return f"{'under 0.1' if 0 < used < 0.001 else f'{100 * used:.2g}' if used < 1 else f'{100 * used:.0f}'} % of its tolerance"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def joined(names: list[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def place(divergence: Divergence) -> str:
    """layer 7, stage down of the prefill graph, on onnxruntime, prompt image"""
    layer = f"{block(divergence.part, divergence.layer)}, " if divergence.layer is not None else ""
    graph = f" of the {divergence.graph} graph" if divergence.graph else ""
    step = f", on {divergence.step}" if divergence.step else ""
    case = f", prompt {divergence.case}" if divergence.case else ""
    stage = "stage " if divergence.step else ""  # without a step it is a file or a tensor
    return f"{layer}{stage}{divergence.stage}{graph}{step}{case}"


def located(found: Divergence | None) -> str:
    """layer 7, down"""
    if found is None:
        return "nowhere"
    return found.stage if found.layer is None else f"{block(found.part, found.layer)}, {found.stage}"


def block(part: str, layer: int) -> str:
    """layer 7; of a network with several rows of blocks: text stream layer 2"""
    return f"{part} layer {layer}".strip()


def own_error(divergence: Divergence) -> str:
    """The error that the stage makes by itself, in words; empty where there is no number."""
    if divergence.error is None:
        return ""
    off = f"off by {number(divergence.error)} of the reference's standard deviation"
    if not divergence.step:
        return f"this stored tensor is {off}"
    if divergence.graph is None:
        return f"{off}; no block alone is: errors have added up, or {divergence.step} does not show its blocks"
    return f"given the same inputs, this stage by itself is {off}"


def missing(report: ParityReport) -> list[str]:
    """Backends that were required but not run, each with the reason where one is known."""
    reasons = {step.name: step.why_not for step in report.steps}
    return [f"{name}: {reasons[name]}" if reasons.get(name) else name for name in report.missing]


def summary(report: ParityReport, bundle: str) -> str:
    """One sentence: what was compared with what, and the result."""
    ran = [step for step in report.steps if step.ran]
    if report.damaged:
        damaged = len(report.damaged)
        are = "is" if damaged == 1 else "are"
        return f"{damaged} of {count(len(report.files), 'file')} of {bundle} {are} damaged. Nothing is compared in a damaged bundle."
    if not ran:
        return f"{bundle} was not compared with {report.reference}: nothing was run."
    lines = [line for step in ran for each in step.cases.values() for line in each]
    differ = sum(not line.ok for line in lines)
    allowed = f"the tolerances of {report.precision} with fold {report.fold}"
    way = " → ".join(step.name for step in ran)
    what = f"{bundle} was compared with {report.reference} in {count(len(ran), 'step')} ({way})"
    if differ:
        return (
            f"{what}: {differ} of {count(len(lines), 'output')} {'is' if differ == 1 else 'are'} not within {allowed}."
        )
    if report.verdict == Verdict.DIFFERS and not _outputs_differ(report):
        wrong = sum(line.differ for line in report.weights)
        return f"{what}: all {len(lines)} outputs are within {allowed}, but {count(wrong, 'stored tensor')} {'is' if wrong == 1 else 'are'} not the checkpoint's."
    if report.verdict == Verdict.DIFFERS:
        blocks = sum(not block.ok for block in report.blocks)
        return f"{what}: all {len(lines)} outputs are within {allowed}, but {count(blocks, 'block')} {'is' if blocks == 1 else 'are'} not."
    missed = sum(not control.ok for control in report.controls)
    if missed:
        return f"{what}, but {count(missed, 'planted fault')} {'was' if missed == 1 else 'were'} not found: the verdict cannot be trusted."
    return f"{what}: {'its one output is' if len(lines) == 1 else f'all {len(lines)} outputs are'} within {allowed}."
