"""The parity ledger, first form: every stage of the bundle against PyTorch without a fold.

The reference is the network with its adapters in place and their state frozen at the prompt (paper, Eq. 4-8), in float32. Its
parameters come from the checkpoint when there is one, else from the bundle itself.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..backends import open_runtime
from ..backends.pytorch import open_network
from ..backends.runtime import Runtime
from ..bundle import Bundle, sha256_of
from ..checkpoint.checkpoint import Checkpoint
from ..errors import UserError
from ..families import get_family
from ..generate import Generation, Prompts, generate
from ..inputs import read_inputs
from ..precision import PRECISIONS, Precision
from ..progress import Progress
from ..rewrite.constants import network_parameters
from ..rewrite.prune import prune
from .metrics import Comparison, compare, compare_tokens, spread, worst
from .report import ParityReport, Verdict
from .samples import sample_prompts, single_rows

Readers = Mapping[str, Callable[[], Tensor]]


def verify(
    bundle: Bundle,
    checkpoint: Checkpoint | None = None,
    backend: str = "onnxruntime",
    inputs: Path | None = None,
    steps: int = 8,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare a bundle on a backend with the reference.

    checkpoint  where the reference's weights come from; None: the bundle, and the verdict is "self-consistent" at best
    inputs      an npz file as for `run`, each row on its own; None: a text and an image prompt made from the config
    steps       decode steps; with inputs that hold forced_tokens, as many as those

    Raises UserError where the checkpoint is of another shape than the bundle.
    """
    progress = progress or Progress()
    manifest = bundle.manifest
    with progress.stage("checking files"):
        damaged = bundle.damaged_files()
    files = [
        Comparison(stage=name, error=float(name in damaged), tolerance=0, ok=name not in damaged, note="sha256")
        for name in manifest.files
    ]
    if damaged:
        return _report(bundle, checkpoint, backend, 0, files, {})  # nothing of a damaged bundle is run
    prompts, forced = _prompts(bundle, inputs, steps)
    with progress.stage("loading the reference"):
        readers = _checkpoint_readers(bundle, checkpoint) if checkpoint else _bundle_readers(bundle)
        reference, folding = _open_reference(bundle, readers)
    runtime = open_runtime(bundle, backend)
    cases = {}
    for name, prompt in prompts.items():
        with progress.stage(f"comparing {name}"):
            want = generate(reference, prompt, steps, forced.get(name))
            got = generate(runtime, prompt, forced=want.tokens[:-1] if name not in forced else forced[name])
            cases[name] = tuple(
                _ledger(want, got, folding, PRECISIONS[manifest.precision], prompt.pixel_values is not None)
            )
    return _report(bundle, checkpoint, backend, len(want.logits) - 1, files, cases)


def _report(
    bundle: Bundle,
    checkpoint: Checkpoint | None,
    backend: str,
    steps: int,
    files: list[Comparison],
    cases: dict[str, tuple[Comparison, ...]],
) -> ParityReport:
    same = all(line.ok for lines in (files, *cases.values()) for line in lines)
    passed = Verdict.SAME if checkpoint else Verdict.SELF_CONSISTENT
    return ParityReport(
        verdict=passed if same else Verdict.DIFFERS,
        reference=_describe(bundle, checkpoint),
        backend=backend,
        precision=bundle.manifest.precision,
        fold=bundle.manifest.fold,
        decode_steps=steps,
        files=tuple(files),
        cases=cases,
    )


def _ledger(
    want: Generation, got: Generation, folding: Runtime | None, precision: Precision, has_image: bool
) -> list[Comparison]:
    """One prompt's lines, in the order of computation."""
    lines = []

    def line(stage: str, a: Tensor, b: Tensor) -> None:
        lines.append(compare(stage, a, b, precision.tolerance * spread(b)))

    if has_image:
        line("vision", got.image_features, want.image_features)
    for name, value in want.state.items():
        lines.append(compare(name, got.state[name], value, precision.state * max(1.0, spread(value))))
    line("prefill", got.logits[0], want.logits[0])
    if got.folded:
        folded = folding.run("fold", want.state)
        lines.append(
            worst("fold", [compare(n, got.folded[n], t, precision.tolerance * spread(t)) for n, t in folded.items()])
        )
    for step in range(1, len(want.logits)):
        line(f"decode {step}", got.logits[step], want.logits[step])
    lines.append(compare_tokens("tokens", got.tokens, want.logits, precision.tolerance * spread(want.logits)))
    return lines


def _prompts(bundle: Bundle, inputs: Path | None, steps: int) -> tuple[dict[str, Prompts], dict[str, Tensor]]:
    """Prompts of one row each, and the tokens to feed after them where the inputs say so."""
    config = bundle.manifest.config
    if inputs is None:
        return sample_prompts(config, bundle.manifest.limits, steps), {}
    read = read_inputs(inputs, config, get_family(config.family))
    rows = {f"row {i}": row for i, row in enumerate(single_rows(read.prompts, config.vision.tokens))}
    forced = read.forced_tokens
    return rows, {} if forced is None else {name: forced[:, i : i + 1].contiguous() for i, name in enumerate(rows)}


def _checkpoint_readers(bundle: Bundle, checkpoint: Checkpoint) -> Readers:
    m = bundle.manifest
    if checkpoint.config != m.config:
        theirs, ours = checkpoint.config.model_dump(), m.config.model_dump()
        key = next(k for k in ours if theirs[k] != ours[k])
        raise UserError(
            f"the checkpoint is another model: its {key} is {theirs[key]}, the bundle's {ours[key]}",
            where=checkpoint.files[0],
            fix="give the checkpoint that the bundle was built from",
        )
    parameters = network_parameters(prune(checkpoint, m.plan), m.plan, PRECISIONS["fp32"], m.limits)
    return {name: tensor.read for name, tensor in parameters.items()}


def _bundle_readers(bundle: Bundle) -> Readers:
    return {name: lambda name=name: bundle.store.tensor(name).float() for name in bundle.store.entries}


def _open_reference(bundle: Bundle, readers: Readers) -> tuple[Runtime, Runtime | None]:
    """The unfolded reference, and one that folds where the bundle does; both over one copy of the weights."""
    m = bundle.manifest
    tensors = {name: read() for name, read in readers.items()}
    shared = {name: lambda tensor=tensor: tensor for name, tensor in tensors.items()}

    def open_mode(fold: str) -> Runtime:
        return open_network(m.config, m.plan, PRECISIONS["fp32"], m.limits, fold, shared)

    return open_mode("lowrank"), open_mode("weights") if m.fold == "weights" else None


def _describe(bundle: Bundle, checkpoint: Checkpoint | None) -> str:
    if checkpoint is None:
        return "the bundle's own weights"
    origin = {source.sha256 for source in bundle.manifest.sources}
    is_origin = {sha256_of(path) for path in checkpoint.files} == origin
    return "the checkpoint it was built from" if is_origin else "a checkpoint that is not its origin"
