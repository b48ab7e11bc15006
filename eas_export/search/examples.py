"""Training examples: questions with answers, from a JSON-lines file (inputs/questions.py)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import torch
from torch import Tensor

from ..core.configs.decoder import ModelConfig
from ..core.errors import UserError
from ..core.limits import Limits
from ..core.progress import Progress
from ..families.contract import Family
from ..families.processing.image_processor import read_image
from ..families.processing.question import Question
from ..families.processing.tokenizer import Tokenizer
from ..inputs.questions import located, make_prompt, prompt_length, read_questions, require_known
from ..networks.decoder.prompts import Prompts
from ..system.hashing import sha256_of

MOST_KEPT = 1 << 30  # bytes
SMALL = 1 << 12  # bytes: an example without its pixels


@dataclass(frozen=True)
class Example:
    """prompt: one row; answer: [tokens] int64, the end token last"""

    prompt: Prompts
    answer: Tensor


class Examples(Sequence[Example]):
    """A file's questions. Prompts are made and images read on first use, and cached up to MOST_KEPT bytes.

    limits  the smallest limits that allow every prompt and its answer

    path, image_root  see inputs/questions.read_questions

    Raises UserError for an invalid file, a question without an answer, a prompt whose images do not match its text, and an
    answer with a token that the model has no embedding for.
    """

    def __init__(
        self, path: Path, config: ModelConfig, family: Family, tokenizer: Tokenizer, image_root: Path | None = None
    ):
        self.config, self.family, self.tokenizer = config, family, tokenizer
        self.questions, self._kept, self._room = read_questions(path, image_root), {}, MOST_KEPT
        for number, question in enumerate(self.questions, start=1):
            if question.answer is None:
                fix = 'give every question an "answer" to train on'
                raise UserError("the question has no answer", where=question.where(number), fix=fix)
        self.limits = self._measure()

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Example:
        if index not in self._kept:
            question = self.questions[index]
            prompt = make_prompt(question, self.config, self.family, self.tokenizer, question.where(index + 1))
            made = Example(prompt, self._answer(question, index + 1))
            if self._room < 0:
                return made
            self._room -= SMALL if prompt.pixel_values is None else SMALL + prompt.pixel_values.nbytes
            self._kept[index] = made
        return self._kept[index]

    def read_images(self, progress: Progress) -> str:
        """Check that every image can be read. Returns the sha256 of all images, in hex. Raises UserError for the first that cannot."""
        digest, names = hashlib.sha256(), dict.fromkeys(name for question in self.questions for name in question.image)
        with progress.stage("reading images", len(names), "images") as done:
            for name in names:
                read_image(Path(name))
                digest.update(bytes.fromhex(sha256_of(Path(name))))
                done(1)
        return digest.hexdigest()

    def _measure(self) -> Limits:
        prompt, total = 1, 2
        for number, question in enumerate(self.questions, start=1):
            with located(question.where(number)):
                length = prompt_length(question, self.config, self.family, self.tokenizer)
            prompt, total = max(prompt, length), max(total, length + len(self._answer(question, number)))
        return Limits(max_prompt=prompt, max_tokens=total)

    def _answer(self, question: Question, number: int) -> Tensor:
        ids = self.tokenizer.encode(expected_reply(question))
        require_known(ids, self.config, self.tokenizer, f"{question.where(number)}: answer")
        return torch.tensor([*ids, self.tokenizer.ends[0]])


def expected_reply(question: Question) -> str:
    """The right option's letter; without options the first human answer."""
    return ascii_uppercase[question.answer] if question.options else question.answer[0]


def batch_at(step: int, count: int, size: int, seed: int) -> list[int]:
    """The batch of a step: `size` of the numbers below `count`, in random order. Each epoch visits every number once."""
    batch: list[int] = []
    for place in range(step * size, (step + 1) * size):
        epoch, index = divmod(place, count)
        if not batch or index == 0:
            order = np.random.default_rng([seed, epoch]).permutation(count)
        batch.append(int(order[index]))
    return batch
