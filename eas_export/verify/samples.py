"""Prompts to verify with: the user's or, without any, made from the config, the same for the same config and limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..bundle.bundle import Bundle
from ..core.configs.decoder import ModelConfig
from ..core.limits import Limits
from ..families import get_family
from ..families.processing.question import Question
from ..generation.text_model import open_tokenizer
from ..inputs.npz import read_inputs
from ..inputs.questions import holds_questions, make_prompt, read_questions, require_short
from ..networks.decoder.prompts import Prompts


@dataclass(frozen=True)
class Samples:
    """prompts: name -> one row; forced: name -> the tokens to feed after it, [steps, 1]; given: whether they are the user's; questions:
    what the prompts were made from, where they were"""

    prompts: dict[str, Prompts]
    forced: dict[str, Tensor]
    given: bool = False
    questions: tuple[Question, ...] = ()


def read_samples(bundle: Bundle, inputs: Path | None, steps: int, longest: bool) -> Samples:
    """Prompts from a file of arrays (.npz) or questions (.jsonl), as `run` takes them; made from the config without one. Raises
    UserError for what does not fit the model."""
    m = bundle.manifest
    if inputs is None:
        return sample_prompts(m.config, m.limits, steps, longest)
    family = get_family(m.config.family)
    if holds_questions(inputs):
        tokenizer = open_tokenizer(bundle)
        questions = read_questions(inputs)
        names = {f"question {number}": question for number, question in enumerate(questions, start=1)}
        for name, question in names.items():
            require_short(question, m.config, family, tokenizer, m.limits, name)
        prompts = {name: make_prompt(q, m.config, family, tokenizer, name) for name, q in names.items()}
        forced = drawn_tokens(m.config, prompts, _steps_that_fit(prompts, steps, m.limits))
        return Samples(prompts, forced, questions=tuple(questions))
    read = read_inputs(inputs, m.config, family)
    rows = {f"row {i}": row for i, row in enumerate(single_rows(read.prompts, m.config.vision.tokens))}
    if read.forced_tokens is None:
        return Samples(rows, drawn_tokens(m.config, rows, _steps_that_fit(rows, steps, m.limits)))
    return Samples(rows, {name: read.forced_tokens[:, i : i + 1] for i, name in enumerate(rows)}, given=True)


def _steps_that_fit(prompts: Mapping[str, Prompts], steps: int, limits: Limits) -> int:
    longest = max(int(prompt.prompt_lengths.max()) for prompt in prompts.values())
    return max(0, min(steps, limits.max_tokens - longest))


def sample_prompts(config: ModelConfig, limits: Limits, steps: int, longest: bool = True) -> Samples:
    """Prompts with text, with an image, with two where prompts may have several, the shortest and, if asked for, the longest that the limits allow, with an image where it fits;
    `steps` tokens or as many as fit behind each. Where a bundle takes batches they are a mixed and ragged one."""
    random = torch.Generator().manual_seed(0)
    steps = min(steps, limits.max_tokens - 1)
    room = min(limits.max_prompt, limits.max_tokens - steps)
    tokens = config.vision.tokens
    image_at = list(range(2, 2 + tokens)) if room >= tokens + 2 else []
    prompts = {"text": _prompt(config, min(17, room), [], random)}
    if image_at:
        prompts["image"] = _prompt(config, min(tokens + 12, room), image_at, random)
    both = [*range(2, 2 + tokens), *range(3 + tokens, 3 + 2 * tokens)]  # a token between them
    if limits.max_images > 1 and room > both[-1]:
        prompts["two images"] = _prompt(config, min(2 * tokens + 12, room), both, random)
    prompts["shortest"] = _prompt(config, 1, [], random)
    if longest:
        prompts["longest"] = _prompt(config, room, image_at, random)
    return Samples(prompts, drawn_tokens(config, prompts, steps))


def drawn_tokens(config: ModelConfig, prompts: Iterable[str], steps: int) -> dict[str, Tensor]:
    """Tokens to feed where none are given, [steps, 1] each: known before any side has said one, so that both can take them at once."""
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
