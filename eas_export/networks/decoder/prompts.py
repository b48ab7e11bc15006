"""A batch of prompts, the input of every runtime of a decoder."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, right-padded.

    input_ids       [B, S] int64; image placeholders included
    prompt_lengths  [B] int64
    image_index     [B, S] int64: -1 for text, else the index of a feature among the features of all images, in order
    pixel_values    [N, 3, H, W] float32, or None without images; image_index has every feature of every image
    """

    input_ids: Tensor
    prompt_lengths: Tensor
    image_index: Tensor
    pixel_values: Tensor | None = None


def join_prompts(batches: list[Prompts]) -> Prompts:
    """Several batches as one, padded on the right; images keep their order."""
    length = max(batch.input_ids.shape[1] for batch in batches)
    images = [batch.pixel_values for batch in batches if batch.pixel_values is not None]
    indices, features = [], 0
    for batch in batches:
        shifted = batch.image_index + features * (batch.image_index >= 0)
        indices.append(F.pad(shifted, (0, length - shifted.shape[1]), value=-1))
        features += int((batch.image_index >= 0).sum())
    return Prompts(
        torch.cat([F.pad(batch.input_ids, (0, length - batch.input_ids.shape[1])) for batch in batches]),
        torch.cat([batch.prompt_lengths for batch in batches]),
        torch.cat(indices),
        torch.cat(images) if images else None,
    )
