"""Texts and images that a cross-encoder reads in pairs."""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ...core.configs.cross_encoder import CrossEncoderConfig
from .encode import PIXELS


@dataclass(frozen=True)
class Pairs:
    """B pairs of a text and an image, or of a text and two images.

    text_ids     [M, L] int64, L as the model was trained with; padding is id 1
    text_masks   [M, L] int64, 0 for padding
    pixels       one or two of [N, 3, H, W] float32: the first images, the second images
    text_index   [B] int64: each pair's text
    image_index  [B] int64: each pair's image
    """

    text_ids: Tensor
    text_masks: Tensor
    pixels: tuple[Tensor, ...]
    text_index: Tensor
    image_index: Tensor

    def __len__(self) -> int:
        return len(self.text_index)

    def part(self, first: int, end: int) -> "Pairs":
        """Pairs first to end - 1, with their texts and images only."""
        texts, text_index = self.text_index[first:end].unique(return_inverse=True)
        images, image_index = self.image_index[first:end].unique(return_inverse=True)
        pixels = tuple(tensor[images] for tensor in self.pixels)
        return Pairs(self.text_ids[texts], self.text_masks[texts], pixels, text_index, image_index)

    def inputs(self, config: CrossEncoderConfig, dtype: torch.dtype) -> dict[str, Tensor]:
        """The encode graph's inputs. dtype: of pixels"""
        pixels = [tensor.to(dtype) for tensor in self.pixels]
        if config.task == "retrieval":
            indices = {"text_index": self.text_index, "image_index": self.image_index}
            return self._texts(slice(None)) | {PIXELS[0]: pixels[0]} | indices
        return self._texts(self.text_index) | {name: tensor[self.image_index] for name, tensor in zip(PIXELS, pixels)}

    def _texts(self, which: Tensor | slice) -> dict[str, Tensor]:
        return {"text_ids": self.text_ids[which], "text_masks": self.text_masks[which]}


def join_pairs(batches: list[Pairs]) -> Pairs:
    """Several batches as one; texts and images keep their order."""
    texts = accumulate((len(batch.text_ids) for batch in batches), initial=0)  # before each batch
    images = accumulate((len(batch.pixels[0]) for batch in batches), initial=0)
    return Pairs(
        torch.cat([batch.text_ids for batch in batches]),
        torch.cat([batch.text_masks for batch in batches]),
        tuple(torch.cat(tensors) for tensors in zip(*(batch.pixels for batch in batches))),
        torch.cat([batch.text_index + before for batch, before in zip(batches, texts)]),
        torch.cat([batch.image_index + before for batch, before in zip(batches, images)]),
    )
