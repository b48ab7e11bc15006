"""METER's images beside a naive transcription of its published transform."""

import numpy as np
import pytest
import torch
from meter_cases import MeterCase
from PIL import Image
from reference.meter_images import meter_pixels

from eas_export.core.errors import UserError
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.families.processing.clip_transform import transform_of
from eas_export.families.processing.image_processor import read_image, to_pixels

CASE = MeterCase("vqa_skip10")
CONFIG = load_checkpoint(Sources(CASE.file, text_heads=CASE.text_heads)).config
SIZE = CONFIG.image.image_size
SIZES = [(SIZE, SIZE), (SIZE, SIZE + 1), (SIZE + 3, SIZE), (7, 61), (90, 5)]


def picture(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """Random pixels in a mode of Pillow's; "P+t" and "RGB+t" have a transparent color."""
    random = np.random.default_rng(seed)
    colors = Image.fromarray(random.integers(0, 256, (*size[::-1], 4), np.uint8), "RGBA")
    name, _, transparent = mode.partition("+")
    image = colors if name == "RGBA" else colors.convert("RGB").convert(name)
    if name == "LA":
        image.putalpha(colors.getchannel("A"))
    if transparent:
        image.info["transparency"] = {"P": 3, "RGB": image.getpixel((0, 0)), "L": 128}[name]
    return image


def saved(image: Image.Image, folder, suffix: str):
    path = folder / f"picture.{suffix}"
    kept = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    image.save(path, **kept)
    return path


def error(path) -> float:
    config = transform_of(CONFIG)
    got = to_pixels(read_image(path, mode=config.mode), SIZE, config)
    assert got.shape == (3, SIZE, SIZE) and got.dtype == torch.float32
    return float((got - meter_pixels(path, SIZE)).abs().max())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "mode, suffix",
    [
        *(("1", "png"), ("L", "png"), ("L+t", "png"), ("LA", "png"), ("P", "png"), ("P+t", "png"), ("RGB", "jpg")),
        *(("RGB+t", "png"), ("RGBA", "png"), ("RGBA", "webp"), ("CMYK", "tiff"), ("YCbCr", "tiff"), ("P", "gif")),
    ],
)
def test_images_of_all_modes_and_shapes(mode, suffix, size, tmp_path):
    assert error(saved(picture(mode, size, seed=sum(size)), tmp_path, suffix)) < 1e-6


def test_transparent_pixels_are_darker_and_weigh_nothing(tmp_path):
    """As in training: resized with their alpha, which is then dropped."""
    white = Image.new("RGBA", (2 * SIZE, 2 * SIZE), (255, 255, 255, 255))
    white.paste((255, 255, 255, 0), (0, 0, SIZE, 2 * SIZE))
    path = saved(white, tmp_path, "png")
    config = transform_of(CONFIG)
    got = to_pixels(read_image(path, mode=config.mode), SIZE, config)
    black, full = ((value - config.mean[0]) / config.std[0] for value in (0, 1))
    assert got[0, 0, 0] == pytest.approx(black) and got[0, 0, -1] == pytest.approx(full)
    assert error(path) < 1e-6


def test_an_odd_rest_is_halved_to_the_even_pixel(tmp_path):
    """Three pixels too many: two of them at the start, as torchvision cuts; transformers cuts one."""
    values = np.repeat(np.arange(SIZE + 3, dtype=np.uint8)[None, :, None], SIZE, 0).repeat(3, 2)
    path = saved(Image.fromarray(values), tmp_path, "png")
    config = transform_of(CONFIG)
    starts = {}
    for square in ("crop", "crop-to-even"):
        pixels = to_pixels(read_image(path), SIZE, config.model_copy(update={"square": square}))
        starts[square] = round(float(pixels[0, 0, 0] * config.std[0] + config.mean[0]) * 255)
    assert starts == {"crop": 1, "crop-to-even": 2}


def test_deep_images_are_refused_though_the_published_code_would_clip_them(tmp_path):
    path = saved(Image.fromarray(np.full((SIZE, SIZE), 4000, np.uint16)), tmp_path, "png")
    assert meter_pixels(path, SIZE).unique().numel() == 3  # white: every value is above 255
    with pytest.raises(UserError, match="more than 8 bits per channel"):
        read_image(path, mode="RGBA")


def test_other_transforms_are_refused_by_name():
    with pytest.raises(UserError, match=r"trained with the image transform 'pixelbert': only clip .* --inputs X.npz"):
        transform_of(CONFIG.model_copy(update={"image_transform": "pixelbert"}))
