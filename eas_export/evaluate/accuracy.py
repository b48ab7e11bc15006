"""Task accuracy where labels are given: the reference's answers and the bundle's."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pydantic import FiniteFloat

from ..backends.runtime import Runtime
from ..core.configs.decoder import ModelConfig
from ..core.progress import Progress
from ..core.record import Record
from ..families.contract import Family
from ..families.processing.question import Question
from ..families.processing.tokenizer import Tokenizer
from ..inputs.questions import make_prompt
from .reference_answers import Ends, Read, Tokens, continued, reference_answers
from .scoring import metric_of, score

TOGETHER = 64  # questions whose prompts and reference logits are in memory at once


class Score(Record):
    """metric: its name; reference, bundle: share answered right, by backend for the bundle"""

    metric: str
    reference: FiniteFloat
    bundle: dict[str, FiniteFloat]


class Accuracy(Score):
    """metric: "multiple choice", "VQA", "VQA and multiple choice" where there are both, "true or false", or "recall@1 of images"

    questions  those with a label; of retrieval the texts
    agree      share of questions to which both give the same answer, token for token; of retrieval: find the same image first
    others     other metrics of the same answers
    """

    questions: int
    agree: dict[str, FiniteFloat]
    others: tuple[Score, ...] = ()


def measure_accuracy(
    runtimes: Mapping[str, Runtime],
    config: ModelConfig,
    read: Read,
    family: Family,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    max_new_tokens: int = 32,
    progress: Progress | None = None,
) -> Accuracy | None:
    """Score the greedy answers of the reference and of a bundle's runtimes, by backend, to the questions that have a label.

    The first runtime drafts the reference's answers (see reference_answers.py), so the fastest should come first. None where no question
    has a label, or there is no runtime. Raises UserError for questions that do not fit the bundle.
    """
    labelled = [
        (question.where(n), question) for n, question in enumerate(questions, start=1) if question.answer is not None
    ]
    if not labelled or not runtimes:
        return None
    first = next(iter(runtimes))
    ends = Ends(tokenizer.ends, max_new_tokens, runtimes[first].limits.max_tokens)
    answers: dict[str, list[Tokens]] = {name: [] for name in runtimes}
    wanted: list[Tokens] = []
    total = len(labelled) * (len(runtimes) + 1)
    with (progress or Progress()).stage("answering", total, "answers") as done:
        for begin in range(0, len(labelled), TOGETHER):
            part = labelled[begin : begin + TOGETHER]
            prompts = [make_prompt(question, config, family, tokenizer, where) for where, question in part]
            for name, runtime in runtimes.items():
                answers[name] += continued(runtime, ends, prompts, [()] * len(prompts), done)
            go_on = partial(continued, runtimes[first], ends)
            wanted += reference_answers(read, go_on, prompts, answers[first][begin:], ends)
            done(len(part))
    return compare_answers([question for _, question in labelled], wanted, answers, tokenizer.decode)


def compare_answers(
    questions: Sequence[Question],
    reference: Sequence[Tokens],
    bundle: Mapping[str, Sequence[Tokens]],
    decode: Callable[[Tokens], str],
) -> Accuracy:
    """Score answers to questions that have labels. bundle: its answers by backend"""

    def right(answers: Sequence[Tokens]) -> float:
        return _mean([score(decode(tokens), question) for tokens, question in zip(answers, questions, strict=True)])

    return Accuracy(
        questions=len(questions),
        metric=" and ".join(sorted({metric_of(question) for question in questions})),
        reference=right(reference),
        bundle={name: right(answers) for name, answers in bundle.items()},
        agree={
            name: _mean([float(got == want) for got, want in zip(answers, reference, strict=True)])
            for name, answers in bundle.items()
        },
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
