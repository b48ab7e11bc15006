"""METER's pixels of an image, written down from its published data code: opened as RGBA, the shorter side resized to the model's size and
the longer in proportion, rounded down (Pillow's bicubic), the centre cut out where half of an odd rest goes to the even pixel, the alpha
dropped, and CLIP's mean and deviation."""

import io
from pathlib import Path

import torch
from PIL import Image


def meter_pixels(file: Path, size: int) -> torch.Tensor:
    """[3, size, size] float32"""
    picture = Image.open(io.BytesIO(file.read_bytes())).convert("RGBA")
    width, height = picture.size
    if width <= height:
        width, height = size, int(size * height / width)
    else:
        width, height = int(size * width / height), size
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.BICUBIC)
    top, left = round((height - size) / 2), round((width - size) / 2)
    picture = picture.crop((left, top, left + size, top + size)).convert("RGB")
    values = torch.tensor(list(picture.tobytes()), dtype=torch.uint8).view(size, size, 3)
    values = values.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(-1, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(-1, 1, 1)
    return values.sub(mean).div(deviation)
