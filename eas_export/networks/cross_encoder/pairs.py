"""Texts and images that a cross-encoder looks at together."""

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
    pixels       [N, 3, H, W] float32, once for each image that a text looks at
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
        """Some of the pairs, with the texts and images that are in them."""
        texts, text_index = self.text_index[first:end].unique(return_inverse=True)
        images, image_index = self.image_index[first:end].unique(return_inverse=True)
        pixels = tuple(each[images] for each in self.pixels)
        return Pairs(self.text_ids[texts], self.text_masks[texts], pixels, text_index, image_index)

    def inputs(self, config: CrossEncoderConfig, dtype: torch.dtype) -> dict[str, Tensor]:
        """The encode graph's. dtype: of pixels"""
        pixels = [each.to(dtype) for each in self.pixels]
        if config.task == "retrieval":
            indices = {"text_index": self.text_index, "image_index": self.image_index}
            return self._texts(slice(None)) | {PIXELS[0]: pixels[0]} | indices
        return self._texts(self.text_index) | {n: each[self.image_index] for n, each in zip(PIXELS, pixels)}

    def _texts(self, which: Tensor | slice) -> dict[str, Tensor]:
        return {"text_ids": self.text_ids[which], "text_masks": self.text_masks[which]}


def join_pairs(batches: list[Pairs]) -> Pairs:
    """Several batches as one; texts and images keep their order."""
    texts = accumulate((len(batch.text_ids) for batch in batches), initial=0)  # before each batch
    images = accumulate((len(batch.pixels[0]) for batch in batches), initial=0)
    return Pairs(
        torch.cat([batch.text_ids for batch in batches]),
        torch.cat([batch.text_masks for batch in batches]),
        tuple(torch.cat(each) for each in zip(*(batch.pixels for batch in batches))),
        torch.cat([batch.text_index + before for batch, before in zip(batches, texts)]),
        torch.cat([batch.image_index + before for batch, before in zip(batches, images)]),
    )
