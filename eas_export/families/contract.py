"""The contract that a model family fills in, and Sources: the user's files and the options that correct what a checkpoint says. A family is
one file under families/ and one row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint.checkpoint import Checkpoint
from ..core.configs.decoder import ModelConfig
from ..core.errors import UserError
from ..core.progress import Progress
from .processing.question import Question
from .processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Sources:
    """Where the user's files are and what they say beyond the files.

    ckpt               a folder in the family's published layout, or its main file
    weights, vision    the other files, where `ckpt` does not hold them
    base_weights       the original model, for attentions that fine-tuning has lost
    router_temperature, adapter_scale, text_heads, image_cross_reading  see core/options.BuildOptions
    """

    ckpt: Path
    weights: Path | None = None
    vision: Path | None = None
    base_weights: Path | None = None
    router_temperature: float | None = None
    adapter_scale: float | None = None
    text_heads: int | None = None
    image_cross_reading: str | None = None

    @classmethod
    def given(
        cls,
        where: str,
        ckpt: Path | str | None,
        weights: Path | str | None = None,
        vision: Path | str | None = None,
        base_weights: Path | str | None = None,
        **settings: Any,
    ) -> "Sources | None":
        """What the user of the command `where` gave; None without any path. Raises UserError for other paths without a checkpoint."""
        others = [None if path is None else Path(path) for path in (weights, vision, base_weights)]
        if ckpt is not None:
            return cls(Path(ckpt), *others, **settings)
        if any(others):
            what = "--weights, --vision and --base-weights belong to a checkpoint"
            raise UserError(what, where=where, fix="pass --ckpt too")
        return None


@dataclass(frozen=True)
class PromptFormat:
    """How a decoder's prompts were made when it was trained.

    place_images  (config, token ids of one prompt as ints, number of its images) -> the ids with room for the features, and the
                  position of each image feature among them, features in order; raises UserError where images and ids do not fit
    format        a question in the format that the family was trained with, as text
    encode        (config, tokenizer, text, number of its images) -> the token ids of a whole prompt, image placeholders included
    pixels        (config, image in RGB) -> [3, H, W] float32, as the vision tower was trained with
    placeholder   the id below 0 that stands for an image among token ids; None where images stand in place of tokens
    """

    place_images: Callable[[ModelConfig, list[int], int], tuple[list[int], list[int]]]
    format: Callable[[Question], str]
    encode: Callable[[ModelConfig, Tokenizer, str, int], list[int]]
    pixels: Callable[[ModelConfig, "Image"], Tensor]
    placeholder: int | None = None


@dataclass(frozen=True)
class Ranks:
    """The inner widths of new adapters (AdapterConfig.rank)."""

    kept: int
    skipped: int


@dataclass(frozen=True)
class Trainable:
    """A model with both adapters in every layer, to find out what can be skipped and to train what stands in for it.

    checkpoint  nothing is cut out of it; its tensors are made of the adapters as they are when they are read
    adapters    published key -> what is trained, float32
    write       (skipped, folder, progress) -> nothing: the checkpoint that fine-tuning leaves, in the published layout, into a folder
                that is there; config.json comes last
    """

    checkpoint: Checkpoint
    adapters: dict[str, Tensor]
    write: Callable[[tuple[int, ...], Path, Progress], None]


@dataclass(frozen=True)
class Family:
    """What the toolkit needs to know of a model family.

    name         as in FAMILIES
    layout       what its checkpoints look like, for messages
    detect       whether a path looks like one of its checkpoints (cheap, reads no tensors)
    load         Sources -> Checkpoint; raises UserError
    takes        the fields of Sources that `load` reads beside ckpt
    prompts      how prompts are made; None where the model reads arrays only
    published_deviations  what its published code does instead of the exact thing, by names in verify/adapter_modes.py
    train        (Sources, Ranks, seed, device) -> Trainable, of a model with or without adapters; None where that is not done here
    """

    name: str
    layout: str
    detect: Callable[[Path], bool]
    load: Callable[[Sources], Checkpoint]
    takes: tuple[str, ...]
    prompts: PromptFormat | None = None
    published_deviations: tuple[str, ...] = ()
    train: Callable[[Sources, Ranks, int, torch.device], Trainable] | None = None
