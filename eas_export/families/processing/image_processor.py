"""Read image files and turn them into pixels."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...core.configs.vit import ImageConfig
from ...core.errors import UserError
from ...system.files import require_file
from ...system.packages import install_command

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # readers that start no other program
LONGEST_SIDE = 100  # times the shorter side
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow would clip their values to 255

if TYPE_CHECKING:
    from PIL.Image import Image


def read_image(path: Path, exif_rotate: bool = False, mode: str = "RGB") -> "Image":
    """The image in Pillow's mode RGB or RGBA, of an animation the first frame. Raises UserError for files that are not images, are damaged,
    or too large.

    exif_rotate  apply the rotation that a camera stored beside the pixels, which the published code does not
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise UserError("Pillow is not installed", where=path, fix=install_command("", "pillow")) from None
    require_file(path)
    try:
        with _opened(path) as image:
            sides, deep = image.size, image.mode in DEEP_MODES
            if not deep and max(sides) <= LONGEST_SIDE * min(sides):
                return (ImageOps.exif_transpose(image) if exif_rotate else image).convert(mode)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        what = f"the image is too large: more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        fix = "scale it down, to 2000 pixels a side or fewer: the model sees a few hundred"
        raise UserError(what, where=path, fix=fix) from None
    except UnidentifiedImageError:
        what, fix = "the file is not an image of a known format", f"convert it to one of {', '.join(FORMATS)}"
        raise UserError(what, where=path, fix=fix) from None
    except Exception as error:  # Pillow's readers raise a dozen kinds for damaged files
        what = f"the image cannot be read: it is damaged ({' '.join(str(error).split())[:100] or type(error).__name__})"
        raise UserError(what, where=path, fix="copy the file again, or save the image anew as PNG") from None
    if deep:
        what = "the image has more than 8 bits per channel"
        raise UserError(what, where=path, fix="convert it to 8 bits per channel")
    what = f"the image has {sides[0]} x {sides[1]} pixels: one side is more than {LONGEST_SIDE} times the other"
    raise UserError(what, where=path, fix="crop it: as a square it would be nearly empty")


@contextmanager
def _opened(path: Path) -> "Iterator[Image]":
    """Pillow's image, to be read inside the block. Raises DecompressionBombWarning where Pillow only warns."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            yield image


def is_rotated(path: Path) -> bool:
    """Whether a rotation or a reflection is stored beside the image's pixels; False for what `read_image` refuses."""
    from PIL import ExifTags

    try:
        with _opened(path) as image:
            return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except Exception:  # as above
        return False


def to_pixels(image: "Image", size: int, config: ImageConfig) -> Tensor:
    """An image in the config's mode as ViT input, [3, size, size] float32"""
    square = RESIZED[config.square](image, size, config).convert("RGB")
    values = np.asarray(square, np.float32) / 255  # [size, size, 3]
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    return torch.from_numpy((values - mean) / std).permute(2, 0, 1)


def _squash(image: "Image", size: int, config: ImageConfig) -> "Image":
    from PIL import Image

    return image.resize((size, size), Image.Resampling.BICUBIC)


def _pad(image: "Image", size: int, config: ImageConfig) -> "Image":
    """Centre the image on a square of the mean colour (LLaVA's expand2square)."""
    from PIL import Image

    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * value) for value in config.mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return _squash(square, size, config)


def _crop(image: "Image", size: int, config: ImageConfig) -> "Image":
    """Resize the shorter side and crop the centre (transformers' CLIPImageProcessor)."""
    return _crop_at(image, size, lambda rest: rest // 2)


def _crop_to_even(image: "Image", size: int, config: ImageConfig) -> "Image":
    """The same with the rounding of torchvision's CenterCrop."""
    return _crop_at(image, size, lambda rest: round(rest / 2))


def _crop_at(image: "Image", size: int, start: Callable[[int], int]) -> "Image":
    """start: pixels that are too many on a side -> those that are cut off at its start"""
    from PIL import Image

    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    left, top = start(width - size), start(height - size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


# ImageConfig.square -> how an image becomes a square of `size`
RESIZED: Mapping[str, Callable[["Image", int, ImageConfig], "Image"]] = {
    "squash": _squash,
    "pad": _pad,
    "crop": _crop,
    "crop-to-even": _crop_to_even,
}
