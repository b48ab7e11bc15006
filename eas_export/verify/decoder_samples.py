"""Prompts to verify with: the user's or, without any, random ones that are the same for the same config and limits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..backends.runtime import Runtime
from ..bundle.bundle import Bundle
from ..core.configs.decoder import ModelConfig
from ..core.errors import UserError
from ..core.limits import Limits
from ..families import get_family
from ..families.processing.question import Question
from ..generation.generate import generate
from ..generation.text_model import open_tokenizer
from ..inputs.npz import read_inputs
from ..inputs.questions import holds_questions, make_prompt, read_questions, require_short
from ..networks.decoder.prompts import Prompts, join_prompts


@dataclass(frozen=True)
class Sample:
    """prompts: one row, or several as one batch; forced: the tokens to feed after them, [steps, B]"""

    prompts: Prompts
    forced: Tensor


@dataclass(frozen=True)
class Samples:
    """each: by name, one row each; fixed: whether the tokens to feed are the user's; questions: those that prompts were made from, if any"""

    each: dict[str, Sample]
    fixed: bool = False
    questions: tuple[Question, ...] = ()

    @property
    def prompts(self) -> dict[str, Prompts]:
        return {name: sample.prompts for name, sample in self.each.items()}

    def by_modality(self) -> "Samples":
        """Those without an image first."""
        each = sorted(self.each.items(), key=lambda item: item[1].prompts.pixel_values is not None)
        return replace(self, each=dict(each))

    @property
    def forced(self) -> dict[str, Tensor]:
        return {name: sample.forced for name, sample in self.each.items()}


def join_samples(samples: Sequence[Sample]) -> Sample:
    """Several samples as one batch."""
    return Sample(join_prompts([each.prompts for each in samples]), torch.cat([each.forced for each in samples], 1))


def read_samples(
    bundle: Bundle, inputs: Path | None, steps: int, longest: bool, image_root: Path | None = None
) -> Samples:
    """Prompts from a file of arrays (.npz) or questions (.jsonl), as `run` takes them; made from the config without one. Raises
    UserError for what does not fit the model."""
    m = bundle.manifest
    if inputs is None:
        return sample_prompts(m.config, m.limits, steps, longest)
    family = get_family(m.config.family)
    if holds_questions(inputs):
        tokenizer = open_tokenizer(bundle)
        questions = read_questions(inputs, image_root)
        for number, question in enumerate(questions, start=1):
            require_short(question, m.config, family, tokenizer, m.limits, question.where(number))
        prompts = {
            f"question {number}": make_prompt(question, m.config, family, tokenizer, question.where(number))
            for number, question in enumerate(questions, start=1)
        }
        return Samples(_drawn(m.config, prompts, _steps_that_fit(prompts, steps, m.limits)), questions=tuple(questions))
    read = read_inputs(inputs, m.config, family)
    rows = {f"row {i}": row for i, row in enumerate(single_rows(read.prompts, m.config.image_tokens))}
    if (forced := read.forced_tokens) is None:
        return Samples(_drawn(m.config, rows, _steps_that_fit(rows, steps, m.limits)))
    return Samples({name: Sample(row, forced[:, i : i + 1]) for i, (name, row) in enumerate(rows.items())}, fixed=True)


def _steps_that_fit(prompts: Mapping[str, Prompts], steps: int, limits: Limits) -> int:
    longest = max(int(prompt.prompt_lengths.max()) for prompt in prompts.values())
    return max(0, min(steps, limits.max_tokens - longest))


def sample_prompts(config: ModelConfig, limits: Limits, steps: int, longest: bool = True) -> Samples:
    """Prompts with text, with an image, with two where prompts may have several, the shortest and, if asked for, the longest that the
    limits allow, with an image where it fits; `steps` tokens or as many as fit after each. Together they make a mixed, ragged batch."""
    random = torch.Generator().manual_seed(0)
    steps = min(steps, limits.max_tokens - 1)
    room = min(limits.max_prompt, limits.max_tokens - steps)
    tokens = config.image_tokens
    image_at = list(range(2, 2 + tokens)) if 0 < tokens <= room - 2 else []
    prompts = {"text": _prompt(config, min(17, room), [], random)}
    if image_at:
        prompts["image"] = _prompt(config, min(tokens + 12, room), image_at, random)
    both = [*range(2, 2 + tokens), *range(3 + tokens, 3 + 2 * tokens)]  # a token between them
    if image_at and limits.max_images > 1 and room > both[-1]:
        prompts["two images"] = _prompt(config, min(2 * tokens + 12, room), both, random)
    prompts["shortest"] = _prompt(config, 1, [], random)
    if longest:
        prompts["longest"] = _prompt(config, room, image_at, random)
    return Samples(_drawn(config, prompts, steps))


def _drawn(config: ModelConfig, prompts: Mapping[str, Prompts], steps: int) -> dict[str, Sample]:
    forced = drawn_tokens(config, prompts, steps)
    return {name: Sample(prompt, forced[name]) for name, prompt in prompts.items()}


def drawn_tokens(config: ModelConfig, prompts: Iterable[str], steps: int) -> dict[str, Tensor]:
    """Random tokens to feed where none are given, [steps, 1] each: known in advance, so both sides can take them in one pass."""
    random = torch.Generator().manual_seed(1)
    return {name: torch.randint(config.vocab_size, (steps, 1), generator=random) for name in prompts}


def _prompt(config: ModelConfig, length: int, image_at: list[int], random: torch.Generator) -> Prompts:
    ids = torch.randint(config.vocab_size, (1, length), generator=random)
    index = torch.full((1, length), -1)
    pixels = None
    if image_at:
        index[0, image_at] = torch.arange(len(image_at))
        size = config.vision.image_size
        pixels = torch.randn(len(image_at) // config.vision.tokens, 3, size, size, generator=random)
    return Prompts(ids, torch.tensor([length]), index, pixels)


def choose_tokens(samples: Samples, runtimes: Sequence[Runtime]) -> Samples:
    """The samples with the tokens to feed: the file's, else the bundle's own greedy answers on the first runtime where that is quick,
    else random ones."""
    quick = next((runtime for runtime in runtimes if runtime.stays_open), None)
    if samples.fixed or quick is None:
        return samples
    try:
        fed = {
            name: replace(each, forced=generate(quick, each.prompts, len(each.forced)).tokens[:-1])
            for name, each in samples.each.items()
        }
        return replace(samples, each=fed)
    except UserError:  # the comparison reports it
        return samples


def single_rows(prompts: Prompts, image_tokens: int) -> list[Prompts]:
    """Each row of a batch as a batch of its own, without padding, with its own images."""
    rows = []
    for ids, length, index in zip(prompts.input_ids, prompts.prompt_lengths.tolist(), prompts.image_index):
        mine = index[:length]
        images = sorted({int(i) // image_tokens for i in mine[mine >= 0]})
        offsets = {image: number * image_tokens for number, image in enumerate(images)}
        own = torch.tensor([-1 if i < 0 else offsets[i // image_tokens] + i % image_tokens for i in mine.tolist()])
        pixels = prompts.pixel_values[images] if images else None
        rows.append(Prompts(ids[None, :length].contiguous(), torch.tensor([length]), own[None], pixels))
    return rows
