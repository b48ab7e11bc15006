"""The parity ledger, first form: every stage of the bundle against PyTorch without a fold.

The reference is the network with its adapters in place and their state frozen at the prompt (paper, Eq. 4-8), in float32. Its
parameters come from the checkpoint when there is one, else from the bundle itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..backends import open_runtime
from ..backends.pytorch import open_network
from ..backends.runtime import Runtime
from ..bundle import Bundle
from ..checkpoint.checkpoint import Checkpoint
from ..config import Limits
from ..conversation import Prompts, join_prompts
from ..families import get_family
from ..generate import Generation, generate, join_generations
from ..inputs.npz import read_inputs
from ..inputs.questions import holds_questions, make_prompt, read_questions, require_short
from ..precision import PRECISIONS, Precision
from ..progress import Progress
from ..rewrite.constants import network_parameters
from ..rewrite.prune import prune
from ..text import open_tokenizer
from .metrics import Comparison, compare, compare_tokens, spread, worst
from .report import ParityReport, Verdict
from .samples import Samples, sample_prompts, single_rows

Readers = Mapping[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class References:
    """The unfolded reference, and one that folds where the bundle does."""

    unfolded: Runtime
    folding: Runtime | None


def compare_bundle(
    bundle: Bundle,
    checkpoint: Checkpoint | None,
    reference: str,
    backend: str = "onnxruntime",
    inputs: Path | None = None,
    steps: int = 8,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare a bundle on a backend with the reference, prompt by prompt and, where it takes batches, all prompts at once.

    checkpoint  where the reference's weights come from; None: the bundle, and the verdict is "self-consistent" at best
    reference   what the report calls it
    inputs      an npz or jsonl file as for `run`; None: prompts made from the config
    steps       decode steps, as far as the limits allow; with inputs that hold forced_tokens, as many as those

    The checkpoint must have the bundle's config. Raises UserError for inputs that do not fit the model.
    """
    progress = progress or Progress()
    m = bundle.manifest
    with progress.stage("checking files", bundle.nbytes) as done:
        damaged = bundle.damaged_files(done)
    files = tuple(
        Comparison(stage=n, error=float(n in damaged), tolerance=0, ok=n not in damaged, note="sha256") for n in m.files
    )
    cases = {}
    if not damaged:  # nothing of a damaged bundle is run
        runtime = open_runtime(bundle, backend)
        with progress.stage("loading the reference"):
            readers = _checkpoint_readers(bundle, checkpoint) if checkpoint else _bundle_readers(bundle)
            references = _open_reference(bundle, readers)
        cases = _compare_prompts(bundle, runtime, references, _read_samples(bundle, inputs, steps), progress)
    same = all(line.ok for lines in (files, *cases.values()) for line in lines)
    passed = Verdict.SAME if checkpoint else Verdict.SELF_CONSISTENT
    return ParityReport(
        verdict=passed if same else Verdict.DIFFERS,
        reference=reference,
        backend=backend,
        precision=m.precision,
        fold=m.fold,
        files=files,
        cases=cases,
    )


def _compare_prompts(
    bundle: Bundle, runtime: Runtime, references: References, samples: Samples, progress: Progress
) -> dict[str, tuple[Comparison, ...]]:
    """The reference takes every prompt on its own; the bundle does too and, where it takes batches, all of them at once."""
    precision = PRECISIONS[bundle.manifest.precision]
    cases, wanted = {}, []
    for name, prompt in samples.prompts.items():
        with progress.stage(f"comparing {name}"):
            forced = samples.forced.get(name)
            want = generate(references.unfolded, prompt, samples.steps, forced)
            got = generate(runtime, prompt, forced=want.tokens[:-1] if forced is None else forced)
            cases[name] = tuple(_ledger(want, got, references.folding, precision))
            wanted.append((want, want.tokens[:-1] if forced is None else forced))
    size = runtime.limits.max_batch
    for first in range(0, len(wanted), size):
        prompts, batch = list(samples.prompts.values())[first : first + size], wanted[first : first + size]
        if len(batch) == 1:
            continue  # was compared already
        name = f"{first + 1} to {first + len(batch)} in one batch"
        with progress.stage(f"comparing {name}"):
            want = join_generations([want for want, _ in batch])
            forced = torch.cat([forced for _, forced in batch], 1)
            got = generate(runtime, join_prompts(prompts), forced=forced)
            cases[name] = tuple(_ledger(want, got, None, precision))
    return cases


def _ledger(want: Generation, got: Generation, folding: Runtime | None, precision: Precision) -> list[Comparison]:
    """The lines of one case, in the order of computation."""

    def line(stage: str, got: Tensor, want: Tensor) -> Comparison:
        return compare(stage, got, want, max(precision.tolerance * spread(want), precision.floor))

    lines = []
    if want.image_features is not None:
        lines.append(line("vision", got.image_features, want.image_features))
    for name, value in want.state.items():
        lines.append(compare(name, got.state[name], value, precision.state * max(1.0, spread(value))))
    lines.append(line("prefill", got.logits[0], want.logits[0]))
    if got.folded:
        folded = folding.run("fold", want.state)
        lines.append(worst("fold", [line(name, got.folded[name], tensor) for name, tensor in folded.items()]))
    lines += [line(f"decode {step}", got.logits[step], want.logits[step]) for step in range(1, len(want.logits))]
    lines.append(compare_tokens("tokens", got.tokens, want.logits, precision.tolerance * spread(want.logits)))
    return lines


def _read_samples(bundle: Bundle, inputs: Path | None, steps: int) -> Samples:
    m = bundle.manifest
    if inputs is None:
        return sample_prompts(m.config, m.limits, steps)
    family = get_family(m.config.family)
    if holds_questions(inputs):
        tokenizer = open_tokenizer(bundle)
        names = {f"question {number}": question for number, question in enumerate(read_questions(inputs), start=1)}
        for name, question in names.items():
            require_short(question, m.config, family, tokenizer, m.limits, name)
        prompts = {name: make_prompt(q, m.config, family, tokenizer, name) for name, q in names.items()}
        return Samples(prompts, {}, _steps_that_fit(prompts, steps, m.limits))
    read = read_inputs(inputs, m.config, family)
    rows = {f"row {i}": row for i, row in enumerate(single_rows(read.prompts, m.config.vision.tokens))}
    forced = read.forced_tokens
    columns = {} if forced is None else {name: forced[:, i : i + 1] for i, name in enumerate(rows)}
    return Samples(rows, columns, _steps_that_fit(rows, steps, m.limits))


def _steps_that_fit(prompts: Mapping[str, Prompts], steps: int, limits: Limits) -> int:
    longest = max(int(prompt.prompt_lengths.max()) for prompt in prompts.values())
    return max(0, min(steps, limits.max_tokens - longest))


def _checkpoint_readers(bundle: Bundle, checkpoint: Checkpoint) -> Readers:
    m = bundle.manifest
    parameters = network_parameters(prune(checkpoint, m.plan), m.plan, PRECISIONS["fp32"], m.limits)
    return {name: tensor.read for name, tensor in parameters.items()}


def _bundle_readers(bundle: Bundle) -> Readers:
    return {name: lambda name=name: bundle.store.tensor(name).float() for name in bundle.store.entries}


def _open_reference(bundle: Bundle, readers: Readers) -> References:
    """Both share one copy of the weights."""
    m = bundle.manifest
    tensors = {name: read() for name, read in readers.items()}
    shared = {name: lambda tensor=tensor: tensor for name, tensor in tensors.items()}

    def open_mode(fold: str) -> Runtime:
        return open_network(m.config, m.plan, PRECISIONS["fp32"], m.limits, fold, shared)

    return References(open_mode("lowrank"), open_mode("weights") if m.fold == "weights" else None)
