"""The same questions to the model with every attention, to the same model without the skipped ones, to EAS, and to EAS's bundles."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, FiniteFloat

from ..backends.opening import open_runtime
from ..backends.pytorch import open_network
from ..backends.runtime import Runtime
from ..bundle.bundle import Bundle
from ..checkpoint.checkpoint import Checkpoint
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..core.record import Record
from ..evaluate.reference_answers import Ends, Tokens, continued
from ..families import get_family, make_tokenizer
from ..inputs.questions import make_prompt, read_questions
from ..networks.graphs import fold_modes
from ..networks.parameters import network_parameters
from ..networks.prune import prune

FULL, BARE, EAS = "every attention", "same skips, no adapters", "EAS"
FP32 = PRECISIONS["fp32"]
REPLY = 8  # tokens at most, the end token among them


@dataclass(frozen=True)
class DemoModel:
    """name: begins with EAS where the answers should be EAS's; nbytes: of the weights"""

    name: str
    runtime: Runtime
    nbytes: int


class Answered(Record):
    """What one model said to the questions.

    right       share of answers that match exactly, signs included
    as_eas      share of answers that equal those of EAS in PyTorch, token for token; None for other models
    weights_mb  of the network, in 10^6 bytes
    together    prompts in a batch
    seconds     for all questions
    texts       the answers, in the order of the questions; not in JSON
    """

    model: str
    runs_on: str
    questions: int
    right: FiniteFloat
    as_eas: FiniteFloat | None
    weights_mb: FiniteFloat
    together: int
    seconds: FiniteFloat
    texts: tuple[str, ...] = Field(exclude=True)


def in_pytorch(name: str, checkpoint: Checkpoint, plan: SkipPlan, limits: Limits) -> DemoModel:
    """The checkpoint with these skips, adapters in place, in fp32."""
    parameters = network_parameters(prune(checkpoint, plan), plan, FP32, limits)
    fold = fold_modes(checkpoint.config)[-1]  # the one that takes several prompts at once
    readers = {name: tensor.read for name, tensor in parameters.items()}
    nbytes = sum(tensor.numel * tensor.dtype.itemsize for tensor in parameters.values())
    return DemoModel(name, open_network(checkpoint.config, plan, FP32, limits, fold, readers), nbytes)


def of_bundle(bundle: Bundle) -> DemoModel:
    return DemoModel(f"{EAS}, --fold {bundle.manifest.fold}", open_runtime(bundle, "onnxruntime"), bundle.store.nbytes)


def models_of(base: Checkpoint, eas: Checkpoint, bundles: Sequence[Bundle]) -> list[DemoModel]:
    """The model with every attention, the same model without the attentions that EAS skips, EAS, and its bundles. PyTorch takes the batches of
    the last bundle."""
    plan, limits = bundles[0].manifest.plan, bundles[-1].manifest.limits
    every = plan.model_copy(update={"skipped": ()})
    in_place = ((FULL, base, every), (BARE, base, plan), (EAS, eas, plan))
    return [*(in_pytorch(*each, limits) for each in in_place), *map(of_bundle, bundles)]


def answer(models: Sequence[DemoModel], questions: Path, checkpoint: Checkpoint, progress: Progress) -> list[Answered]:
    """Every model's greedy answers to all questions. checkpoint: of their family, with the tokenizer that they share"""
    config, asked, replies = checkpoint.config, read_questions(questions), {}
    family, tokenizer = get_family(config.family), make_tokenizer(checkpoint.tokenizer, config)
    prompts = [make_prompt(each, config, family, tokenizer, each.where(n)) for n, each in enumerate(asked, 1)]
    with progress.stage("answering", len(models) * len(prompts), "questions") as done:
        for model in models:
            ends, begin = Ends(tokenizer.ends, REPLY, model.runtime.limits.max_tokens), time.monotonic()
            tokens = continued(model.runtime, ends, prompts, [()] * len(prompts), done)
            replies[model.name] = tokens, time.monotonic() - begin
    of_eas = replies[EAS][0]

    def answered(model: DemoModel, tokens: Sequence[Tokens], seconds: float) -> Answered:
        texts = tuple(tokenizer.decode(each).strip() for each in tokens)
        is_eas = model.name.startswith(EAS)
        return Answered(
            model=model.name,
            runs_on=model.runtime.backend,
            questions=len(asked),
            right=_mean([text == each.answer[0] for text, each in zip(texts, asked)]),
            as_eas=_mean([one == other for one, other in zip(tokens, of_eas)]) if is_eas else None,
            weights_mb=round(model.nbytes / 1e6, 3),
            together=model.runtime.limits.max_batch,
            seconds=round(seconds, 2),
            texts=texts,
        )

    return [answered(model, *replies[model.name]) for model in models]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
