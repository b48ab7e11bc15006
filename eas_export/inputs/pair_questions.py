"""Questions as the pairs of texts and images that a cross-encoder reads, a batch at a time.

VQA: a question and its image; NLVR2: a statement and its two images; retrieval: one text with several images or folders of them, or one
image with several texts, in place of a question's options.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..core.configs.cross_encoder import CrossEncoderConfig
from ..core.errors import UserError
from ..families.contract import Family
from ..families.processing.image_processor import read_image, to_pixels
from ..families.processing.question import Question
from ..families.processing.roberta_tokenizer import RobertaTokenizer
from ..networks.cross_encoder.pairs import Pairs
from .questions import located

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of the images in a folder


@dataclass(frozen=True)
class Item:
    """A text with its image, or with both; where: what messages call it"""

    text: str
    images: tuple[str, ...]
    where: str


def items_of(question: Question, config: CrossEncoderConfig, where: str) -> list[Item]:
    """The question's pairs: one or, for retrieval, one for each image or each text. Raises UserError where it does not suit the task."""
    if question.context is not None:
        raise UserError("the model takes no context", where=where, fix="leave the context out, or put it into the text")
    if question.system is not None:
        raise UserError("the model takes no system message", where=where, fix="leave it out")
    text = question.question if question.prompt is None else question.prompt
    if config.task == "retrieval":
        return _ranked(text, question, where)
    if text is None or question.options:
        what = "the model chooses among its own answers: options cannot be given"
        raise UserError(what, where=where, fix="give --question TEXT, and no --option")
    if len(question.image) != config.images:
        number = len(question.image)
        what = (
            f"the question has {number or 'no'} image{'s' if number > 1 else ''}, but the model takes {config.images}"
        )
        listed = "FILE" if config.images == 1 else "[FILE, FILE]"
        fix = f"""give {" ".join(["--image FILE"] * config.images)}, or "image": {listed} in the line of a file"""
        raise UserError(what, where=where, fix=fix)
    return [Item(text, question.image, where)]


def _ranked(text: str | None, question: Question, where: str) -> list[Item]:
    if text is not None and question.options:
        what = "there is a text and there are options: the options are the texts that are ranked"
        raise UserError(what, where=where, fix="give --question TEXT for images, or an --option for each text")
    texts = question.options if text is None else (text,)
    images = [path for name in question.image for path in _files(Path(name), where)]
    if not images:
        raise UserError("there is no image", where=where, fix="give an --image FILE, or a folder of images")
    if len(images) > 1 < len(texts):
        what = f"{len(texts)} texts and {len(images)} images: either is ranked for one of the other"
        raise UserError(what, where=where, fix="give one text with several images, or one image with several texts")
    return [Item(text, (image,), where) for text, image in product(texts, images)]


def _files(path: Path, where: str) -> list[str]:
    """The path, or a folder's images by name. Raises UserError for a folder without any."""
    if not path.is_dir():
        return [str(path)]
    found = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not found:
        what = f"the folder has no image: no file that ends in {', '.join(SUFFIXES)}"
        raise UserError(what, where=f"{where}: {path}", fix="name a folder of images")
    return found


def _numbered(values: Iterable[Any]) -> dict[Any, int]:
    """Each different value and its number, in their order."""
    return {value: number for number, value in enumerate(dict.fromkeys(values))}


class PairReader:
    """Reads texts and images as the family's models were trained with them."""

    def __init__(
        self, config: CrossEncoderConfig, family: Family, tokenizer: RobertaTokenizer, exif_rotate: bool = False
    ):
        """exif_rotate: see image_processor.read_image. Raises UserError for a model with another image transform."""
        self._config, self._tokenizer, self._exif_rotate = config, tokenizer, exif_rotate
        self._image = family.pairs.image(config)

    def batches(self, items: Sequence[Item], size: int) -> Iterator[Pairs]:
        """Batches of up to `size` pairs, read as they are needed: a text or an image that comes again in a batch or in the next one is read
        once. Raises UserError for an image that cannot be read."""
        pixels: dict[str, torch.Tensor] = {}
        for batch in (items[first : first + size] for first in range(0, len(items), size)):
            texts, images = (_numbered(getattr(item, name) for item in batch) for name in ("text", "images"))
            pixels = {path: pixels[path] for each in images for path in each if path in pixels}
            for item in batch:
                with located(item.where):
                    pixels |= {path: self._read(path) for path in item.images if path not in pixels}
            ids, masks = zip(*(self._tokenizer.encode(text, self._config.text_length) for text in texts))
            yield Pairs(
                torch.tensor(ids),
                torch.tensor(masks),
                tuple(torch.stack([pixels[path] for path in column]) for column in zip(*images)),
                torch.tensor([texts[item.text] for item in batch]),
                torch.tensor([images[item.images] for item in batch]),
            )

    def cut(self, items: Sequence[Item]) -> list[str]:
        """Where the texts are that are longer than those of training, whose ends are not read."""
        longest = self._config.text_length
        return [*dict.fromkeys(each.where for each in items if self._tokenizer.length(each.text) > longest)]

    def _read(self, path: str) -> torch.Tensor:
        image = read_image(Path(path), self._exif_rotate, self._image.mode)
        return to_pixels(image, self._config.image.image_size, self._image)
