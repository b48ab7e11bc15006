"""The error of a precision's arithmetic alone: the reason for the tolerances in eas_export/core/precision.py.

    python benchmarks/rounding.py --precision fp16
    python benchmarks/rounding.py --precision bf16

The published code's small cases, fold lowrank in batches, with limits that give a short and a long longest prompt, in both opsets: the
largest error of any logits against the float32 reference, in units of their standard deviation. PyTorch runs the very modules that are
recorded, in the precision; on a CPU, ONNX Runtime computes bf16 graphs in float32.

The bar: no graph's error exceeds its tolerance. PyTorch's has no bar: the tolerance is chosen by it.
"""

import argparse
import tempfile
from pathlib import Path

from common import write_result

import eas_export
from eas_export.core.precision import PRECISIONS
from eas_export.pipeline import build
from eas_export.verify.report import StepReport

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "lavin"
SKIP = {"all": None, "first": None, "half_13B": None, "noskip": "none"}
BACKENDS = (["onnxruntime"], ["onnxruntime", "pytorch"])
LIMITS = ((64, 128), (1024, 2048))  # of a prompt, of a prompt with its answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=["fp16", "bf16"], required=True)
    precision = parser.parse_args().precision
    largest: dict[str, float] = {}
    for case, skip in SKIP.items():
        for max_prompt, max_tokens in LIMITS:
            for opset in (24, 21):
                options = {"precision": precision, "fold": "lowrank", "max_batch": 4, "opset": opset, "skip": skip}
                limits = {"max_prompt": max_prompt, "max_tokens": max_tokens}
                with tempfile.TemporaryDirectory() as scratch:
                    bundle = build(GOLDEN / case, Path(scratch) / "b", verify=False, **options, **limits).bundle
                    # alone, ONNX Runtime is fed random tokens; with PyTorch, PyTorch's
                    reports = [eas_export.verify(bundle, GOLDEN / case, backend=names) for names in BACKENDS]
                for step in (step for report in reports for step in report.steps):
                    largest[step.name] = max(largest.get(step.name, 0.0), error_of(step))
    figures = {name: round(error, 4) for name, error in largest.items()}
    write_result(f"rounding_{precision}", figures, bars={"onnxruntime": PRECISIONS[precision].tolerance})


def error_of(step: StepReport) -> float:
    """The largest error of a step's logits, relative."""
    lines = [line for case in step.cases.values() for line in case if line.kl is not None]
    return max(line.relative for line in lines)


if __name__ == "__main__":
    main()
