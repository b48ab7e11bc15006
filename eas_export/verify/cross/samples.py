"""Pairs to verify a cross-encoder with: the user's or, without any, drawn ones, the same for the same config."""

from pathlib import Path

import torch

from ...bundle.bundle import Bundle
from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.errors import UserError
from ...inputs.pairs import read_pairs
from ...networks.cross_encoder.pairs import Pairs
from ...networks.cross_encoder.text_encoder import PADDING


def read_samples(bundle: Bundle, inputs: Path | None, steps: int, longest: bool) -> dict[str, Pairs]:
    """Name -> one pair. There are no steps, and every text is as long as can be. Raises UserError for what does not fit the model."""
    config = bundle.manifest.config
    if inputs is None:
        return sample_pairs(config)
    if inputs.suffix.lower() == ".jsonl":
        what = "a cross-encoder's questions come as token ids: its checkpoint has no tokenizer"
        raise UserError(what, where=inputs, fix="give an npz file with text_ids and pixel_values")
    pairs = read_pairs(inputs, config)
    return {f"row {i}": pairs.part(i, i + 1) for i in range(len(pairs))}


def sample_pairs(config: CrossEncoderConfig) -> dict[str, Pairs]:
    """A text that fills its length, one that half of it is padding, and the shortest one, each with an image of its own."""
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
