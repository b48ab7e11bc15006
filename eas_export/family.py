"""The contract a model family fills in: callables and data, no base class. A family is one file under families/ and one row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .checkpoint.checkpoint import Checkpoint
from .config import ModelConfig
from .question import Question
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Sources:
    """Where the user's files are and what they say beyond the files.

    ckpt               a folder in the family's published layout, or its main file
    weights, vision    the other files, where `ckpt` is a single file
    router_temperature, adapter_scale  override what the files say, or say what they do not
    """

    ckpt: Path
    weights: Path | None = None
    vision: Path | None = None
    router_temperature: float | None = None
    adapter_scale: float | None = None


@dataclass(frozen=True)
class Family:
    """What the toolkit needs to know of a model family.

    detect       whether a path looks like one of its checkpoints (cheap, reads no tensors)
    load         Sources -> Checkpoint; raises UserError
    vision       builds the vision tower: pixel_values [N, 3, H, W] -> image_features [N, tokens, dim]
    find_images  (config, token ids of one prompt as ints, number of its images) -> the position of each image feature in
                 the prompt, features in order; raises UserError where they do not fit
    format       a question in the format that the family was trained with, as text
    encode       (config, tokenizer, text, number of its images) -> the token ids of a whole prompt, image placeholders included
    pixels       (config, image in RGB) -> [3, H, W] float32, as the vision tower was trained with
    shortcuts    what its published code does instead of the exact thing, by names in parity/forms.py
    """

    name: str
    detect: Callable[[Path], bool]
    load: Callable[[Sources], Checkpoint]
    vision: Callable[[ModelConfig], nn.Module]
    find_images: Callable[[ModelConfig, list[int], int], list[int]]
    format: Callable[[Question], str]
    encode: Callable[[ModelConfig, Tokenizer, str, int], list[int]]
    pixels: Callable[[ModelConfig, "Image"], Tensor]
    shortcuts: tuple[str, ...]
