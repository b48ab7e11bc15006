"""eas-export run on a cross-encoder: pairs of texts and images in, answers or scores out."""

from pathlib import Path

from ..backends.opening import open_runtime
from ..bundle.bundle import Bundle
from ..families import get_family
from ..generation.encode import encode
from ..generation.pair_model import answers_of
from ..inputs.pairs import read_pairs, write_answers
from .output import Table
from .run_options import RunOptions


def run_pairs(bundle: Bundle, inputs: Path, options: RunOptions) -> tuple[dict, Table]:
    """What `--json` shows, and a table of it. Raises UserError for inputs that do not fit the bundle, and for options of generation."""
    outputs, backend, progress = options.outputs, options.backend, options.progress
    options.require_no_decoding()
    pairs = read_pairs(inputs, bundle.manifest.config)
    with progress.stage("loading"):
        runtime = open_runtime(bundle, backend)
    with progress.stage("running", len(pairs), "pairs") as done:
        results = encode(runtime, pairs, done)
    if outputs:
        write_answers(outputs, results)
    record = {"outputs": str(outputs) if outputs else None, "backend": backend}
    if "scores" in results:
        scores = results["scores"].tolist()
        best_first = sorted(range(len(scores)), key=lambda row: -scores[row])
        lines = [[str(row), f"{scores[row]:.4f}"] for row in best_first[: options.top]]
        shown = Table(f"{backend}, {len(scores)} pairs, best first", ["pair", "score"], lines, numbers=1)
        return record | {"scores": scores}, shown
    config = bundle.manifest.config
    shares = get_family(config.family).pairs.probabilities[config.task](results["logits"])
    answers = shares.argmax(-1).tolist()
    words = answers_of(bundle)
    lines = [[str(row), words[answer], f"{shares[row, answer]:.3f}"] for row, answer in enumerate(answers)]
    shown = Table(f"{backend}, {len(answers)} questions", ["row", "answer", "probability"], lines, numbers=1)
    return record | {"answers": answers}, shown
