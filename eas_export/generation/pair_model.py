"""Text and images in, answers or scores out: a cross-encoder's bundle with its tokenizer and the names of its answers.

model = open_pair_model("meter-vqa.bundle")
for answers in model.answers([Question(question="What is it?", image="cat.png")]):
    print(answers[0].text, answers[0].probability)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backends.opening import open_runtime
from ..backends.runtime import Runtime
from ..bundle.bundle import Bundle, open_bundle
from ..checkpoint.hf_files import MERGES, TOKENIZER_JSON, VOCAB
from ..checkpoint.labels import LABELS, read_labels
from ..core.errors import UserError
from ..families import get_family, make_tokenizer
from ..families.processing.question import Question, as_questions
from ..inputs.pair_questions import Item, PairReader, items_of
from .encode import encode_each


@dataclass(frozen=True)
class Answer:
    """One of a model's answers, and how probable the model takes it for."""

    text: str
    probability: float


class PairModel:
    """A runtime with a tokenizer: questions about images in, answers or scores out."""

    def __init__(self, runtime: Runtime, reader: PairReader, words: Sequence[str]):
        """words: the answers in the order of the logits"""
        self.runtime, self.reader, self.words = runtime, reader, words

    def answers(self, questions: Question | Sequence[Question], top: int = 5, begin: int = 0) -> Iterator[list[Answer]]:
        """The `top` most probable answers to each question from the one at `begin` on, the most probable first, in batches of the bundle's
        limit. Raises UserError for a question that does not suit the model, before any is answered, for an image that cannot be read, and
        for a model that ranks."""
        config = self.runtime.config
        probabilities = get_family(config.family).pairs.probabilities.get(config.task)
        if probabilities is None:
            fix = "call scores(items), with the pairs that items(questions) makes"
            raise UserError("the model gives scores, not answers", where=f"task {config.task}", fix=fix)
        items = [item for each in self.items(questions) for item in each][begin:]
        for outputs in encode_each(self.runtime, self._batches(items)):
            for row in probabilities(outputs["logits"]):
                best = row.topk(min(top, len(row)))
                yield [Answer(self.words[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist())]

    def scores(self, items: Sequence[Item]) -> Iterator[float]:
        """The score of each pair of a text and an image, in batches of the bundle's limit."""
        for outputs in encode_each(self.runtime, self._batches(items)):
            yield from outputs["scores"].tolist()

    def items(self, questions: Question | Sequence[Question]) -> list[list[Item]]:
        """Each question's pairs: one, or those that it ranks. Raises UserError for a question that does not suit the model."""
        config = self.runtime.config
        return [
            items_of(each, config, each.where(number)) for number, each in enumerate(as_questions(questions), start=1)
        ]

    def _batches(self, items: Sequence[Item]) -> Iterator:
        return self.reader.batches(items, self.runtime.limits.max_batch)


def open_pair_model(bundle: Bundle | Path | str, backend: str = "onnxruntime", exif_rotate: bool = False) -> PairModel:
    """Open a bundle as a PairModel. Raises UserError if the model is another kind, or the tokenizer is missing or another model's."""
    opened = open_bundle(bundle)
    if get_family(opened.manifest.config.family).pairs is None:
        raise UserError(
            "the bundle's model generates text", where=opened.path, fix="open it with eas_export.open_model"
        )
    reader = open_reader(opened, exif_rotate)
    return PairModel(open_runtime(opened, backend), reader, answers_of(opened))


def open_reader(bundle: Bundle, exif_rotate: bool = False) -> PairReader:
    """What reads texts and images for the bundle's model. Raises UserError without a tokenizer, or if that is another model's."""
    files = [bundle.path / name for name in (TOKENIZER_JSON, VOCAB, MERGES) if name in bundle.manifest.files]
    if not files:
        what = "the bundle has no tokenizer: texts cannot be read"
        fix = f"build it again with --tokenizer DIR, a folder with RoBERTa's {VOCAB} and {MERGES} or its {TOKENIZER_JSON}, or give arrays: --inputs X.npz"
        raise UserError(what, where=bundle.path, fix=fix)
    config = bundle.manifest.config
    return PairReader(config, get_family(config.family), make_tokenizer(files, config), exif_rotate)


def has_answers(bundle: Bundle) -> bool:
    """Whether the bundle knows its answers' names."""
    return LABELS in bundle.manifest.files or _own_answers(bundle) is not None


def answers_of(bundle: Bundle) -> Sequence[str]:
    """The answers in the order of the logits; their numbers where the bundle does not know their names."""
    config = bundle.manifest.config
    if LABELS in bundle.manifest.files:
        return read_labels(bundle.path / LABELS, config.answers)
    return _own_answers(bundle) or [str(number) for number in range(config.answers)]


def _own_answers(bundle: Bundle) -> tuple[str, ...] | None:
    config = bundle.manifest.config
    return get_family(config.family).pairs.answers.get(config.task)
