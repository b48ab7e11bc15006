"""The parity ledger, first form: every stage of the bundle against PyTorch without a fold (reference.py).

The reference's parameters come from the checkpoint when there is one, else from the bundle itself. Neither side holds the model:
the reference goes block by block, and the bundle runs mapped, or in parts where its backend would copy it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..backends.opening import open_sparing_runtime
from ..backends.runtime import CPU, Runtime
from ..bundle import Bundle
from ..checkpoint.checkpoint import Checkpoint
from ..config import Limits
from ..conversation import Prompts, check_prompts, join_prompts
from ..families import get_family
from ..generate import Generation, generate, join_generations
from ..inputs.npz import read_inputs
from ..inputs.questions import holds_questions, make_prompt, read_questions, require_short
from ..precision import PRECISIONS, Precision
from ..progress import Progress
from ..rewrite.constants import network_parameters
from ..rewrite.prune import prune
from ..scratch import Scratch, scratch_folder
from ..text import open_tokenizer
from .metrics import Comparison, compare, compare_tokens, spread, worst
from .reference import Readers, Reference, groups
from .report import ParityReport, Verdict
from .samples import Samples, drawn_tokens, sample_prompts, single_rows


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
    samples = _read_samples(bundle, inputs, steps)
    with progress.stage("checking files", bundle.nbytes) as done:
        damaged = bundle.damaged_files(done)
    files = tuple(
        Comparison(stage=n, error=float(n in damaged), tolerance=0, ok=n not in damaged, note="sha256") for n in m.files
    )
    cases, on = {}, backend
    if not damaged:  # nothing of a damaged bundle is run
        runtime = open_sparing_runtime(bundle, backend)
        on = runtime.backend
        if runtime.device == CPU:
            runtime = replace(runtime, empty=Scratch(scratch_folder(bundle.path)).empty)
        readers = _checkpoint_readers(bundle, checkpoint) if checkpoint else _bundle_readers(bundle)
        cases = _compare_samples(
            runtime, Reference(m.config, m.plan, m.limits, readers), samples, m.precision, progress
        )
    same = all(line.ok for lines in (files, *cases.values()) for line in lines)
    passed = Verdict.SAME if checkpoint else Verdict.SELF_CONSISTENT
    return ParityReport(
        verdict=passed if same else Verdict.DIFFERS,
        reference=reference,
        backend=on,
        precision=m.precision,
        fold=m.fold,
        files=files,
        cases=cases,
    )


def _compare_samples(
    runtime: Runtime, reference: Reference, samples: Samples, precision_name: str, progress: Progress
) -> dict[str, tuple[Comparison, ...]]:
    """The reference takes every prompt on its own; the bundle does too and, where it takes batches, all of them at once."""
    precision = PRECISIONS[precision_name]
    names, prompts, forced = list(samples.prompts), list(samples.prompts.values()), list(samples.forced.values())
    for prompt, fed in zip(prompts, forced):
        check_prompts(runtime, prompt, fed)
    layers = runtime.config.layers * len(groups(prompts, forced))
    with progress.stage("running the reference", layers, "layers") as done:
        wanted = reference.read(prompts, forced, done)
    cases = {}
    for name, prompt, fed, want in zip(names, prompts, forced, wanted):
        with progress.stage(f"comparing {name}"):
            cases[name] = _ledger(want, runtime, prompt, fed, reference, precision)
    size = runtime.limits.max_batch
    for first in range(0, len(wanted), size):
        batch = slice(first, first + size)
        if len(wanted[batch]) == 1:
            continue  # was compared already
        name = f"{first + 1} to {first + len(wanted[batch])} in one batch"
        with progress.stage(f"comparing {name}"):
            fed = torch.cat(forced[batch], 1)
            want = join_generations(wanted[batch])
            cases[name] = _ledger(want, runtime, join_prompts(prompts[batch]), fed, reference, precision)
    return cases


def _ledger(
    want: Generation, runtime: Runtime, prompts: Prompts, forced: Tensor, reference: Reference, precision: Precision
) -> tuple[Comparison, ...]:
    """Run one case and compare it. What it gave, folded weights above all, is gone before the next one runs."""
    return tuple(_lines(want, generate(runtime, prompts, forced=forced), reference, precision))


def _lines(want: Generation, got: Generation, reference: Reference, precision: Precision) -> list[Comparison]:
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
        folded = []
        for layer in range(reference.config.layers):
            folded += [line(name, got.folded[name], value) for name, value in reference.fold(layer, want.state).items()]
        lines.append(worst("fold", folded))
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
        return Samples(prompts, drawn_tokens(m.config, prompts, _steps_that_fit(prompts, steps, m.limits)))
    read = read_inputs(inputs, m.config, family)
    rows = {f"row {i}": row for i, row in enumerate(single_rows(read.prompts, m.config.vision.tokens))}
    if read.forced_tokens is None:
        return Samples(rows, drawn_tokens(m.config, rows, _steps_that_fit(rows, steps, m.limits)))
    return Samples(rows, {name: read.forced_tokens[:, i : i + 1] for i, name in enumerate(rows)})


def _steps_that_fit(prompts: Mapping[str, Prompts], steps: int, limits: Limits) -> int:
    longest = max(int(prompt.prompt_lengths.max()) for prompt in prompts.values())
    return max(0, min(steps, limits.max_tokens - longest))


def _checkpoint_readers(bundle: Bundle, checkpoint: Checkpoint) -> Readers:
    m = bundle.manifest
    parameters = network_parameters(prune(checkpoint, m.plan), m.plan, PRECISIONS["fp32"], m.limits)
    return {name: tensor.read for name, tensor in parameters.items()}


def _bundle_readers(bundle: Bundle) -> Readers:
    return {name: lambda name=name: bundle.store.tensor(name).float() for name in bundle.store.entries}
