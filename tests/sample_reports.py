"""Reports made by hand: what a verification can find, without one."""

import random

from eas_export.evaluate.accuracy import Accuracy
from eas_export.verify.lines import Line
from eas_export.verify.report import (
    BlockLine,
    Divergence,
    FileLine,
    ParityReport,
    PublishedDeviation,
    StepReport,
    Verdict,
)

FILES = ("weights.safetensors", "vision.onnx", "prefill.onnx", "fold.onnx", "decode.onnx", "tokenizer.model")
CASES = ("image", "text", "longest", "1 to 3 in one batch")
LAYERS, SKIPPED = 32, range(20, 32)
STEPS = {  # name -> what it is, error in units of the spread, tolerance against the step before
    "pytorch, folded": ("the reference with its adapters folded, fp32", 2e-6, 1e-4),
    "pytorch, the bundle's weights": ("the bundle's weights, folded, fp16", 4e-3, 3e-2),
    "onnxruntime": ("the bundle's graphs on the CPU", 5e-3, 3e-2),
    "tensorrt-rtx": ("the bundle's engines", 6e-3, 3e-2),
}
TOLERANCE, SPREAD = 3e-2, 2.5


def passing() -> ParityReport:
    return _report(Verdict.SAME, [_step(name) for name in STEPS])


def differing() -> ParityReport:
    """A block of onnxruntime is wrong from layer 7 on; nothing else was asked of TensorRT than to run, and it did not."""
    steps = [_step(name) for name in list(STEPS)[:2]]
    steps += [_step("onnxruntime", wrong_by=0.4), _not_run("tensorrt-rtx", "no NVIDIA GPU was found here")]
    place = Divergence(step="onnxruntime", case="image", graph="prefill", layer=7, stage="down", error=0.31)
    return _report(
        Verdict.DIFFERS, steps, blocks=_blocks(("onnxruntime",), wrong_from=7), first_divergence=place,
        required=("onnxruntime", "tensorrt-rtx"), accuracy=None,
    )  # fmt: skip


def lacking() -> ParityReport:
    """What ran is the same; something that was required did not run."""
    steps = [*(_step(name) for name in list(STEPS)[:3]), _not_run("tensorrt-rtx", "no NVIDIA GPU was found here")]
    return _report(
        Verdict.SELF_CONSISTENT,
        steps,
        required=("tensorrt-rtx",),
        reference="the bundle's own weights",
        blocks=_blocks(("onnxruntime",)),
        shortcuts=(),
        accuracy=None,
    )


def damaged() -> ParityReport:
    files = tuple(FileLine(name=name, ok=name != "fold.onnx") for name in FILES)
    steps = [_not_run(name, "the bundle is damaged") for name in STEPS]
    place = Divergence(step="", case="", graph=None, layer=None, stage="fold.onnx", error=None)
    return _report(Verdict.DIFFERS, steps, files=files, blocks=(), shortcuts=(), accuracy=None, first_divergence=place)


def nothing() -> ParityReport:
    return _report(Verdict.NOT_RUN, [], files=(), blocks=(), shortcuts=(), accuracy=None)


def broken() -> ParityReport:
    """Numbers that are none, and an error of exactly zero."""
    lines = (
        Line(stage="vision", error=0.0, tolerance=0.1, ok=True, relative=0.0, cosine=1.0),
        Line(stage="prefill", error=None, tolerance=0.1, ok=False, note="not finite"),
        Line(stage="decode 1", error=0.0, tolerance=0.1, ok=True, relative=0.0, cosine=1.0),
    )
    step = StepReport(
        name="onnxruntime",
        what="the bundle's graphs on the CPU",
        before="",
        tolerance=0.1,
        reason="",
        cases={"text": lines},
    )
    block = dict(step="onnxruntime", case="text", kind="kept", cosine=None, tolerance=0.1)
    blocks = (
        BlockLine(layer=0, error=0.0, relative=0.0, ok=True, **block),
        BlockLine(layer=1, error=None, relative=None, ok=False, **block),
    )
    return _report(Verdict.DIFFERS, [step], blocks=blocks, shortcuts=(), accuracy=None)


ALL = {each.__name__: each for each in (passing, differing, lacking, damaged, nothing, broken)}


def _report(verdict: Verdict, steps: list[StepReport], **changes) -> ParityReport:
    kept = dict(
        reference="the checkpoint it was built from",
        files=tuple(FileLine(name=name, ok=True) for name in FILES),
        blocks=_blocks(("onnxruntime", "tensorrt-rtx")),
        shortcuts=tuple(
            PublishedDeviation(name=name, case=case, relative=relative, tolerance=TOLERANCE)
            for case in CASES[:2]
            for name, relative in (("one fold for all prompts", 0.21), ("merged without its bias", 8e-3))
        ),
        accuracy=Accuracy(
            questions=120,
            metric="exact match",
            reference=0.925,
            bundle={"onnxruntime": 0.9167},
            agree={"onnxruntime": 0.9917},
        ),
    )
    return ParityReport(
        verdict=verdict, precision="fp16", fold="weights", steps=tuple(steps), **(kept | changes),
    )  # fmt: skip


def _not_run(name: str, why: str) -> StepReport:
    what, _, tolerance = STEPS[name]
    return StepReport(name=name, what=what, before="", tolerance=tolerance, reason="", why_not=why)


def _step(name: str, wrong_by: float = 0.0) -> StepReport:
    what, error, tolerance = STEPS[name]
    before = dict(zip(list(STEPS)[1:], STEPS)).get(name, "the reference")
    draw = random.Random(name)
    cases = {case: tuple(_lines(draw, error, tolerance, wrong_by, case)) for case in CASES}
    return StepReport(
        name=name, what=what, before=before, tolerance=tolerance, reason="both round every sum in another order", cases=cases
    )  # fmt: skip


def _lines(draw: random.Random, error: float, tolerance: float, wrong_by: float, case: str) -> list[Line]:
    stages = ["router", "pooled", "prefill", "fold", *(f"decode {step}" for step in range(1, 10))]
    stages = stages if case == "text" else ["vision", *stages]
    lines = []
    for number, stage in enumerate(stages):
        logits = stage == "prefill" or stage.startswith("decode")
        relative = (error + (wrong_by if logits else 0)) * draw.uniform(0.5, 1.5) * (1 + number / 9)
        lines.append(
            Line(
                stage=stage, error=relative * SPREAD, tolerance=TOLERANCE * SPREAD, ok=relative <= TOLERANCE, relative=relative,
                cosine=1 - relative**2 / 2, kl=relative**2 if logits else None, top1=float(relative < 0.3) if logits else None,
                top5=1.0 if logits else None, before=relative * SPREAD / 3, before_tolerance=tolerance * SPREAD,
                note="largest of 128: layers.31.ffn.down" if stage == "fold" else "",
            )
        )  # fmt: skip
    same = 0.7 if wrong_by else 0.9 if error > 5e-3 and case == "longest" else 1.0
    note = "all 10 equal" if same == 1 else "3 of 10 differ; first token 4: 17, not 23, by a margin of 8.1e-01"
    margin = (wrong_by or 0.01 * (1 - same)) * SPREAD
    lines.append(
        Line(stage="tokens", error=margin, tolerance=2 * TOLERANCE * SPREAD, ok=not wrong_by, top1=same, note=note)
    )
    return lines


def _blocks(steps: tuple[str, ...], wrong_from: int = LAYERS) -> tuple[BlockLine, ...]:
    lines = []
    for step in steps:
        draw = random.Random(step)
        for layer in range(LAYERS):
            relative = STEPS[step][1] * draw.uniform(0.6, 1.4) * (0.1 + layer / 30) + (layer >= wrong_from) * 0.25
            lines.append(
                BlockLine(
                    step=step, case="image", layer=layer, kind="skipped" if layer in SKIPPED else "kept", error=relative * 0.7,
                    relative=relative, cosine=1 - relative**2 / 2, tolerance=TOLERANCE, ok=relative <= TOLERANCE,
                )
            )  # fmt: skip
    return tuple(lines)
