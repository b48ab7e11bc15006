"""Prompts to verify with when the user gives none: made from the config, the same for the same config."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import Limits, ModelConfig
from ..conversation import Prompts


@dataclass(frozen=True)
class Samples:
    """prompts: name -> one row; forced: name -> the tokens to feed after it, [steps, 1]"""

    prompts: dict[str, Prompts]
    forced: dict[str, Tensor]


def sample_prompts(config: ModelConfig, limits: Limits, steps: int) -> Samples:
    """Prompts with text, with an image, and with little text, as long as the limits allow."""
    random = torch.Generator().manual_seed(0)
    steps = min(steps, limits.max_tokens - 1)
    room = min(limits.max_prompt, limits.max_tokens - steps)
    tokens = config.vision.tokens
    prompts = {"text": _prompt(config, min(17, room), [], random)}
    if room >= tokens + 2:
        prompts["image"] = _prompt(config, min(tokens + 12, room), list(range(2, 2 + tokens)), random)
    prompts["short text"] = _prompt(config, min(3, room), [], random)
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
        pixels = torch.randn(1, 3, size, size, generator=random)
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
