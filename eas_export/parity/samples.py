"""Prompts to verify with when the user gives none: made from the config, the same for the same config."""

import torch

from ..config import Limits, ModelConfig
from ..generate import Prompts


def sample_prompts(config: ModelConfig, limits: Limits, steps: int) -> dict[str, Prompts]:
    """A text prompt and a prompt with an image, one row each, by name."""
    random = torch.Generator().manual_seed(0)
    room = max(1, min(limits.max_prompt, limits.max_tokens - steps))
    text = _prompt(config, min(17, room), [], random)
    tokens = config.vision.tokens
    if room < tokens + 2:
        return {"text": text}
    return {"text": text, "image": _prompt(config, min(tokens + 12, room), list(range(2, 2 + tokens)), random)}


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
