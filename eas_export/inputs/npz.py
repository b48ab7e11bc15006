"""The npz files that `run` and `verify` read and write for decoders.

In   input_ids [B, S] (image placeholders included, the modality token not) · attention_mask [B, S] (0 for padding on either side) or
     prompt_lengths [B] (padding on the right), default S · pixel_values [N, 3, H, W] and image_row [N] (the row each image belongs to;
     by default in the order of the placeholders) · forced_tokens [steps, B], optional
Out  logits [steps, B, vocab] float32 · tokens [steps, B] int64: after the prompt and after each token that was fed
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..core.configs.decoder import ModelConfig
from ..core.errors import UserError
from ..families.contract import Family
from ..networks.decoder.prompts import Prompts
from ..system.files import require_file, written_whole

FREE_BYTES, MOST_PER_BYTE = 1 << 24, 100  # arrays may take FREE_BYTES, or MOST_PER_BYTE times the file's size

KNOWN = {  # name -> axes
    "input_ids": 2,
    "attention_mask": 2,
    "prompt_lengths": 1,
    "pixel_values": 4,
    "image_row": 1,
    "forced_tokens": 2,
}
PAD = "pass attention_mask [B, S], 0 for padding and 1 elsewhere, or prompt_lengths [B]"


@dataclass(frozen=True)
class Inputs:
    """Prompts and, optionally, the tokens to feed after them: forced_tokens [steps, B] int64."""

    prompts: Prompts
    forced_tokens: Tensor | None = None


def read_inputs(path: Path, config: ModelConfig, family: Family) -> Inputs:
    """Read an npz file. Raises UserError for anything that is missing, unknown, mis-shaped or does not fit the model."""
    return make_inputs(read_arrays(path), config, family, str(path))


def make_inputs(arrays: Mapping[str, NDArray], config: ModelConfig, family: Family, where: str) -> Inputs:
    """Turn the arrays of such a file into Inputs. Raises UserError as `read_inputs` does."""
    for name, array in arrays.items():
        if name not in KNOWN:
            raise UserError(f"unknown array {name!r}", where=where, fix=f"the arrays are: {', '.join(KNOWN)}")
        if array.ndim != KNOWN[name]:
            what = f"{name} has shape {list(array.shape)}, expected {KNOWN[name]} axes"
            raise UserError(what, where=where, fix="see eas-export run --help")
    if "input_ids" not in arrays or 0 in arrays["input_ids"].shape:
        what = "input_ids is missing or empty"
        raise UserError(what, where=where, fix="store the token ids as input_ids [B, S]")
    ids, lengths = _without_padding(arrays, family, where)
    rows, length = ids.shape
    ids = np.where(np.arange(length) < lengths[:, None], ids, 0)  # padding is not read
    placeholder = family.prompts.placeholder
    wrong = ((ids < 0) | (ids >= config.vocab_size)) & (ids != placeholder)
    if wrong.any():
        what = f"token id {ids[wrong][0]} is out of range 0..{config.vocab_size - 1}"
        image = "" if placeholder is None else f" (an image is one {placeholder})"
        fix = f"use the model's own tokenizer{image}; where ids are padding, {PAD}"
        raise UserError(what, where=f"{where}: input_ids", fix=fix)
    in_order = np.repeat(np.arange(rows), (ids == placeholder).sum(1))
    pixels, image_rows = _images(arrays, rows, config, where, in_order)
    placed = []
    for row, length in enumerate(lengths):
        mine = np.flatnonzero(image_rows == row)
        try:
            own, positions = family.prompts.place_images(config, ids[row, :length].tolist(), len(mine))
        except UserError as error:
            raise UserError(error.what, where=f"{where}: {error.where}, row {row}", fix=error.fix) from None
        index = torch.full((len(own),), -1)
        features = torch.from_numpy(mine)[:, None] * config.image_tokens + torch.arange(config.image_tokens)
        index[positions] = features.flatten()
        placed.append((torch.tensor(own), index))
    forced = None
    if "forced_tokens" in arrays:
        steps = len(arrays["forced_tokens"])
        forced = torch.from_numpy(integers(arrays, "forced_tokens", where, (steps, rows), 0, config.vocab_size - 1))
    whole, indices = zip(*placed)
    return Inputs(
        Prompts(
            pad_sequence(whole, batch_first=True),
            torch.tensor([len(own) for own in whole]),
            pad_sequence(indices, batch_first=True, padding_value=-1),
            pixels,
        ),
        forced,
    )


def _without_padding(arrays: Mapping, family: Family, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """input_ids with each row's tokens first, and their numbers [B]. Raises UserError where padding is not told from tokens."""
    rows, length = arrays["input_ids"].shape
    ids = integers(arrays, "input_ids", where, (rows, length), None, None)
    lengths = integers(arrays, "prompt_lengths", where, (rows,), 1, length, default=np.full(rows, length))
    if "attention_mask" in arrays:
        mask = read_mask(arrays, "attention_mask", where, (rows, length)).astype(bool)
        starts, numbers = mask.argmax(1), mask.sum(1)
        places = np.arange(length) - starts[:, None]
        holes = (mask != ((places >= 0) & (places < numbers[:, None]))).any(1) | (numbers == 0)
        if holes.any():
            what = f"row {holes.argmax()} of attention_mask is not one run of ones"
            raise UserError(what, where=where, fix="give each row its tokens side by side, padded on one side only")
        if "prompt_lengths" in arrays and (starts.any() or (numbers != lengths).any()):
            what = "attention_mask and prompt_lengths contradict each other"
            raise UserError(what, where=where, fix="give one of them; prompt_lengths needs padding on the right")
        return np.stack([np.roll(row, -start) for row, start in zip(ids, starts)]), numbers
    if "prompt_lengths" not in arrays:
        for side, end, next_to_it in (("begins", ids[:, 0], ids[:, 1:2]), ("ends", ids[:, -1], ids[:, -2:-1])):
            again = (end[:, None] == next_to_it).any(1) & (rows > 1) & (end != family.prompts.placeholder)
            padded = np.isin(end, family.prompts.padding) | again
            if padded.any():
                row = padded.argmax()
                twice = "twice " if again[row] else ""
                what = f"row {row} {side} {twice}with the token id {end[row]}, as padding does"
                fix = f"{PAD}; for rows without padding prompt_lengths is {length} each"
                raise UserError(what, where=f"{where}: input_ids", fix=fix)
    return ids, lengths


def write_outputs(path: Path, logits: Tensor, tokens: Tensor) -> None:
    """Write logits and tokens as npz, atomically."""
    with written_whole(path) as file:
        np.savez(file, logits=logits.numpy(), tokens=tokens.numpy())


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Every array of the file. Safe for untrusted files: numpy parses headers as literals and runs nothing without allow_pickle."""
    try:
        with zipfile.ZipFile(require_file(path)) as archive:
            _require_sensible(path, sum(member.file_size for member in archive.infolist()))
            archive.testzip()
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen types for damaged files
        what = f"the file is not an npz of plain arrays ({type(error).__name__})"
        raise UserError(what, where=path, fix="write it with numpy.savez") from None


def _require_sensible(path: Path, nbytes: int) -> None:
    """Raise UserError for a small file that expands to fill the memory: zeros deflate to a thousandth."""
    size = path.stat().st_size
    if nbytes > max(FREE_BYTES, MOST_PER_BYTE * size):
        what = f"the arrays take {nbytes} bytes, in a file of {size} bytes"
        raise UserError(what, where=path, fix="write it with numpy.savez")


def integers(
    arrays: Mapping, name: str, where: str, shape: tuple, low: int | None, high: int | None, default=None
) -> NDArray[np.int64]:
    """The integer array `name`, as int64. Raises UserError unless it has this shape and values from low to high."""
    array = arrays.get(name, default)
    if array is None or array.dtype.kind not in "iu" or array.shape != shape:
        actual = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
        what = f"{name} is {actual}, expected integers of shape {list(shape)}"
        raise UserError(what, where=where, fix="see eas-export run --help")
    if array.size and low is not None and (array.min() < low or array.max() > high):
        bad = array[(array < low) | (array > high)].flat[0]
        raise UserError(f"{name} contains {bad}, out of range {low}..{high}", where=where, fix="correct the values")
    return array.astype(np.int64)


def read_mask(arrays: Mapping, name: str, where: str, shape: tuple, default=None) -> NDArray[np.int64]:
    """A mask of 0 and 1, or of bools. Raises UserError as `integers` does."""
    mask = arrays.get(name, default)
    whole = {name: mask.astype(np.int8) if mask.dtype == bool else mask}
    return integers(whole, name, where, shape, 0, 1)


def _images(
    arrays: Mapping, rows: int, config: ModelConfig, where: str, in_order: NDArray[np.int64]
) -> tuple[Tensor | None, NDArray[np.int64]]:
    """pixel_values as a tensor or None, and each image's row [N]; in_order: the rows of the placeholders"""
    if "pixel_values" not in arrays and "image_row" not in arrays:
        return None, np.empty(0, np.int64)
    require_tower(config, where)
    if "pixel_values" not in arrays:
        what = "there is image_row, but no pixel_values"
        raise UserError(what, where=where, fix="store the images as pixel_values, or leave both out")
    image = config.vision.image
    pixels = read_pixels(arrays, "pixel_values", config.vision.image_size, image.mean, image.std, where)
    default = in_order if len(in_order) == len(pixels) else None
    if "image_row" not in arrays and default is None and len(in_order):
        what = f"the prompts have {len(in_order)} image placeholders, but pixel_values {len(pixels)} images"
        raise UserError(what, where=where, fix="give as many, or image_row [N], the row of each image")
    image_rows = integers(arrays, "image_row", where, (len(pixels),), 0, rows - 1, default)
    return (pixels if len(pixels) else None), image_rows


def require_tower(config: ModelConfig, where: str) -> None:
    """Raise UserError unless the model takes images."""
    if config.vision is None:
        raise UserError("images were given, but the model takes text only", where=where, fix="leave them out")


def read_pixels(
    arrays: Mapping, name: str, size: int, mean: Sequence[float], std: Sequence[float], where: str
) -> Tensor:
    """Images [N, 3, size, size] float32. Raises UserError for other shapes and dtypes, for NaN or infinity, and for values that are
    far from those of images, (value - mean) / std with values from 0 to 1: by more than these span, where no noise for a test is."""
    pixels = arrays[name]
    if pixels.dtype.kind != "f" or pixels.shape[1:] != (3, size, size):
        what = f"{name} is {pixels.dtype} {list(pixels.shape)}, expected floats [N, 3, {size}, {size}]"
        raise UserError(what, where=where, fix=f"resize and normalise the images to {size} x {size}")
    if not np.isfinite(pixels).all():
        raise UserError(f"{name} contains NaN or infinity", where=where, fix="correct the values")
    low, high = min(-m / s for m, s in zip(mean, std)), max((1 - m) / s for m, s in zip(mean, std))
    least, most = (pixels.min(), pixels.max()) if pixels.size else (low, high)
    span = high - low
    if least < low - span or most > high + span:
        what = f"{name} has values from {least:.4g} to {most:.4g}, but those of images lie from {low:.2f} to {high:.2f}"
        fix = f"normalise the images: (value / 255 - mean) / std with mean {[*mean]} and std {[*std]}"
        raise UserError(what, where=where, fix=fix)
    return torch.from_numpy(pixels.astype(np.float32))
