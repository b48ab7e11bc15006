"""The ledger's step beside another implementation: transformers' own classes, loaded from the same files.

Every other step has the checkpoint read by this package's loaders on both sides. A witness (families/witnesses) reads it by itself; compared is
what it knows, the base path, in float32: every block's output, image features and logits.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ..build.estimate import PROCESS, Estimate, check_resources
from ..core.precision import PRECISIONS
from ..families.witnesses import Witnessed
from .lines import compare
from .metrics import spread, stream_units
from .report import BlockLine, Divergence, StepReport

if TYPE_CHECKING:
    from .ledger import Ledger

TOLERANCE = PRECISIONS["fp32"].tolerance
WHAT = (
    "the model without its adapters in transformers' own classes, which load the same files by themselves, beside the same model in "
    "PyTorch{}: shows what a loader misread"
)
REASON = "both compute the same in float32, in another order"


def witness_step(
    ledger: "Ledger", name: str, open_witness: Callable[[], Any]
) -> tuple[StepReport, tuple[BlockLine, ...]]:
    """The step, and the blocks of the first sample that differs, or of the first. Raises UserError where the witness cannot be
    opened, and where it does not fit into memory."""
    numbers = sum(tensor.numel for tensor in ledger.whole.tensors.values())
    memory = Estimate(step=f"the model in {name}, in float32,", memory_bytes=PROCESS + 4 * numbers, seconds=0)
    check_resources([memory], ledger.bundle.path, "")
    cases, blocks = {}, {}
    with ledger.progress.stage(f"running {name}"):
        witness = open_witness()
        lacking = witness.without_attention
        for case, ours, theirs in ledger.base_path(witness):
            cases[case] = tuple(
                compare(stage, ours.outputs[stage], want, TOLERANCE * spread(want), logits=stage == "logits")
                for stage, want in theirs.outputs.items()
            )
            units = stream_units(theirs.blocks).items()
            blocks[case] = tuple(_block_line(name, case, place, unit, ours, theirs, lacking) for place, unit in units)
    left = (
        f" (both without the attentions of layers {', '.join(map(str, lacking))}, which the files lack)"
        if lacking
        else ""
    )
    step = StepReport(name=name, what=WHAT.format(left), before="", tolerance=TOLERANCE, reason=REASON, cases=cases)
    shown = next(
        (case for case in cases if not all(each.ok for each in (*cases[case], *blocks[case]))), next(iter(cases))
    )
    return step, blocks[shown]


def first_divergence(step: StepReport, blocks: tuple[BlockLine, ...]) -> Divergence | None:
    """Where the witness and the reference part: at image features, else the first block, else the logits. None where they do not."""
    found = [(case, line) for case, lines in step.cases.items() for line in lines if not line.ok]
    vision = [(case, line) for case, line in found if line.stage == "vision"]
    wrong = [block for block in blocks if not block.ok]
    if wrong and not vision:
        place = {"case": wrong[0].case, "part": wrong[0].part, "layer": wrong[0].layer}
        return Divergence(step=step.name, graph=None, stage="block", error=wrong[0].relative, **place)
    for case, line in vision or found:
        return Divergence(step=step.name, case=case, graph=None, layer=None, stage=line.stage, error=line.relative)
    return None


def _block_line(
    name: str,
    case: str,
    place: tuple[str, int],
    unit: float,
    ours: Witnessed,
    theirs: Witnessed,
    lacking: Collection[int],
) -> BlockLine:
    line = compare("", ours.blocks[place], theirs.blocks[place], TOLERANCE * unit, unit)
    judged = {field: getattr(line, field) for field in ("error", "relative", "cosine", "ok")}
    part, layer = place
    return BlockLine(
        step=name,
        case=case,
        part=part,
        layer=layer,
        kind="skipped" if place[1] in lacking else "kept",
        tolerance=TOLERANCE,
        **judged,
    )
