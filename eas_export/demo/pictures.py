"""The demo's questions with their two pictures each: as lines for a terminal, and drawn as one image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

SHADES, ASCII_SHADES = " ░▒▓█", " .:*#"
GAP = 4  # columns between two pictures, and between them and the text
PIXEL, FONT = 16, 18  # of the drawn image, in pixels


def beside(images: Sequence["Image"], lines: Sequence[str], ascii_only: bool) -> list[str]:
    """Lines of text: the pictures, two characters a pixel, with `lines` at their right."""
    pictures = [_rows(image, ASCII_SHADES if ascii_only else SHADES) for image in images]
    left = [(" " * GAP).join(row) for row in zip(*pictures, strict=True)]
    texts = [*lines, *[""] * (len(left) - len(lines))]
    return [f"{row}{' ' * GAP}{text}".rstrip() for row, text in zip(left, texts, strict=True)]


def _rows(image: "Image", shades: str) -> list[str]:
    grey = image.convert("L")
    width, height = grey.size
    pixels = [shades[value * len(shades) // 256] * 2 for value in grey.tobytes()]
    return ["".join(pixels[row * width : (row + 1) * width]) for row in range(height)]


def draw(questions: Sequence[tuple[Sequence["Image"], Sequence[str]]], path: Path) -> None:
    """Write one image: a row for each question, its pictures enlarged, its lines at their right."""
    from PIL import Image, ImageDraw, ImageFont

    side = PIXEL * questions[0][0][0].size[0]
    step = side + PIXEL
    font = ImageFont.load_default(FONT)
    canvas = Image.new("RGB", (2 * step + 480, len(questions) * step + PIXEL), "white")
    pen = ImageDraw.Draw(canvas)
    for row, (images, lines) in enumerate(questions):
        top = PIXEL + row * step
        for column, image in enumerate(images):
            canvas.paste(image.resize((side, side), Image.Resampling.NEAREST), (PIXEL + column * step, top))
        pen.multiline_text((2 * step + 2 * PIXEL, top), "\n".join(lines), "black", font, spacing=8)
    canvas.save(path, optimize=True)
