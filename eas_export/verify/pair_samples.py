"""Pairs to verify a cross-encoder with: the user's or, without any, random ones that are the same for the same config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..backends.runtime import Tensors
from ..bundle.bundle import Bundle
from ..core.configs.cross_encoder import CrossEncoderConfig
from ..core.errors import UserError
from ..core.progress import Progress
from ..evaluate.accuracy import Accuracy
from ..evaluate.pair_accuracy import METRICS, answer_accuracy, recall_accuracy
from ..evaluate.scoring import normalised
from ..families.processing.question import Question
from ..generation.pair_model import answers_of, has_answers, open_reader
from ..inputs.pair_questions import Item, PairReader, items_of
from ..inputs.pairs import read_pairs
from ..inputs.questions import holds_questions, read_questions
from ..networks.cross_encoder.pairs import Pairs, join_pairs
from ..networks.cross_encoder.text_encoder import PADDING

Run = Callable[[Pairs], Tensors]


@dataclass(frozen=True)
class Asked:
    """The questions that pairs were made from, with what reads them. words: the answers in the order of the logits"""

    questions: tuple[Question, ...]
    items: tuple[Item, ...]
    reader: PairReader
    words: Sequence[str]


@dataclass(frozen=True)
class PairSamples:
    """each: by name, one pair each; asked: None for pairs that are arrays"""

    each: dict[str, Pairs]
    asked: Asked | None = None


def read_samples(
    bundle: Bundle, inputs: Path | None, steps: int, longest: bool, image_root: Path | None = None
) -> PairSamples:
    """Pairs from a file of arrays (.npz) or questions (.jsonl), as `run` takes them; made from the config without one. steps and longest
    have no effect: nothing is decoded, and every text is padded to one length. Raises UserError for what does not fit the model."""
    config = bundle.manifest.config
    if inputs is None:
        return PairSamples(sample_pairs(config))
    if not holds_questions(inputs):
        pairs = read_pairs(inputs, config)
        return PairSamples({f"row {i}": pairs.part(i, i + 1) for i in range(len(pairs))})
    reader, questions = open_reader(bundle), read_questions(inputs, image_root)
    items = []
    for number, question in enumerate(questions, start=1):
        items += _one(items_of(question, config, question.where(number)), question.where(number))
    _require_known_answers(bundle, questions)
    pairs = reader.batches(items, 1)
    named = {f"question {number}": each for number, each in enumerate(pairs, start=1)}
    return PairSamples(named, Asked(tuple(questions), tuple(items), reader, answers_of(bundle)))


def _one(items: list[Item], where: str) -> list[Item]:
    if len(items) != 1:
        what = f"the line has {len(items)} pairs of a text and an image"
        raise UserError(what, where=where, fix="give each text its own line, with the image that it belongs to")
    return items


def _require_known_answers(bundle: Bundle, questions: Sequence[Question]) -> None:
    """Raise UserError for answers that the model could never give, though not for those that a list of some answers leaves out."""
    config = bundle.manifest.config
    labelled = [(q.where(n), q.answer) for n, q in enumerate(questions, start=1) if q.answer is not None]
    if config.task not in METRICS or not labelled:
        return
    words = {*map(normalised, answers_of(bundle))}
    where, wrong = next(((at, each) for at, each in labelled if words.isdisjoint(map(normalised, each))), ("", ()))
    if wrong and not has_answers(bundle):
        what = f"the answer {wrong[0]!r} cannot be scored: the bundle does not know its answers' words"
        raise UserError(what, where=where, fix="build it again with --labels FILE, or leave the answers out")
    if wrong and len(words) < 10:
        what = f"the answer {wrong[0]!r} is not one of the model's: {', '.join(sorted(words))}"
        raise UserError(what, where=where, fix="correct the answer, or leave it out")


def measure_accuracy(
    config: CrossEncoderConfig,
    samples: PairSamples,
    wanted: Sequence[Tensors],
    reference: Run,
    runs: Mapping[str, tuple[Run, int]],
    progress: Progress,
) -> Accuracy | None:
    """Score the reference and a bundle on the questions with labels or, for retrieval, on every text with every image.

    wanted     the reference's outputs on each sample
    reference  gives its outputs on a batch of pairs
    runs       by backend what gives a bundle's, and the most pairs that it takes

    None without questions, labels or backends.
    """
    if samples.asked is None or not runs:
        return None
    if config.task == "retrieval":
        return _recall(samples.asked, reference, runs, progress)
    rows = [row for row, question in enumerate(samples.asked.questions) if question.answer is not None]
    if not rows:
        return None
    pairs = [*samples.each.values()]
    logits = {}
    for name, (run, size) in runs.items():
        with progress.stage(f"answering on {name}", len(rows), "questions") as done:
            parts = []
            for batch in (rows[first : first + size] for first in range(0, len(rows), size)):
                parts.append(run(join_pairs([pairs[row] for row in batch]))["logits"])
                done(len(batch))
            logits[name] = torch.cat(parts)
    labels = [samples.asked.questions[row].answer for row in rows]
    of_reference = torch.cat([wanted[row]["logits"] for row in rows])
    return answer_accuracy(labels, samples.asked.words, METRICS[config.task], of_reference, logits)


def _recall(asked: Asked, reference: Run, runs: Mapping[str, tuple[Run, int]], progress: Progress) -> Accuracy:
    images = {image: number for number, image in enumerate(dict.fromkeys(item.images for item in asked.items))}
    every = [Item(item.text, image, item.where) for image in images for item in asked.items]
    largest = max(size for _, size in runs.values())
    scores = {}
    for name, (run, size) in {"the reference": (reference, largest), **runs}.items():
        with progress.stage(f"scoring every text with every image on {name}", len(every), "pairs") as done:
            parts = []
            for batch in asked.reader.batches(every, size):
                parts.append(run(batch)["scores"])
                done(len(batch))
            scores[name] = torch.cat(parts).view(len(images), len(asked.items)).T  # [texts, images]
    image_of = [images[item.images] for item in asked.items]
    return recall_accuracy(image_of, scores.pop("the reference"), scores)


def sample_pairs(config: CrossEncoderConfig) -> dict[str, Pairs]:
    """A full text, one that is half padding, and the shortest one, each with its own images; the same for the same config."""
    random = torch.Generator().manual_seed(0)
    lengths = {"full text": config.text_length, "padded text": -(-config.text_length // 2), "shortest text": 1}
    return {name: _pair(config, length, random) for name, length in lengths.items()}


def _pair(config: CrossEncoderConfig, tokens: int, random: torch.Generator) -> Pairs:
    places = torch.arange(config.text_length)[None]
    ids = torch.randint(config.text.vocab_size, places.shape, generator=random)
    ids = torch.where(ids == PADDING, 0, ids)
    inside, size = places < tokens, config.image.image_size
    pixels = tuple(torch.randn(1, 3, size, size, generator=random) for _ in range(config.images))
    first = torch.zeros(1, dtype=torch.int64)
    return Pairs(torch.where(inside, ids, PADDING), inside.long(), pixels, first, first)
