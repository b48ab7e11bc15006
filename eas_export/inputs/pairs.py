"""The npz files that `run` and `verify` read and write for cross-encoders.

In   text_ids [M, L] · text_masks [M, L] (default: 0 where the id is 1) · pixel_values [N, 3, H, W], and pixel_values_1 for models of
     two images; M equals N or, for retrieval, one of them is 1: it is paired with each of the others
Out  logits [B, answers] or scores [B] float32 · cls_feats [B, width] float32

Texts are padded to the length that the model was trained with: padding counts in the means of skipped attentions.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..checkpoint.hf_clip import Preprocessing
from ..core.configs.cross_encoder import CrossEncoderConfig
from ..core.errors import UserError
from ..networks.cross_encoder.encode import PIXELS
from ..networks.cross_encoder.pairs import Pairs
from ..networks.cross_encoder.text_encoder import PADDING
from ..system.files import written_whole
from .npz import integers, read_arrays, read_mask, read_pixels

IMAGES = Preprocessing()  # of the towers of all cross-encoders: CLIP's


def read_pairs(path: Path, config: CrossEncoderConfig) -> Pairs:
    """Read an npz file. Raises UserError for anything that is missing, unknown, mis-shaped or does not fit the model."""
    return make_pairs(read_arrays(path), config, str(path))


def make_pairs(arrays: Mapping[str, NDArray], config: CrossEncoderConfig, where: str) -> Pairs:
    """Turn the arrays of such a file into Pairs. Raises UserError as `read_pairs` does."""
    pixels = PIXELS[: config.images]
    _require_names(arrays, {"text_ids": 2, "text_masks": 2, **dict.fromkeys(pixels, 4)}, where)
    texts, length = arrays["text_ids"].shape
    if length > config.text_length:
        what = f"texts have {length} tokens, but the model was trained with {config.text_length}"
        raise UserError(what, where=f"{where}: text_ids", fix="truncate them, as training did")
    ids = integers(arrays, "text_ids", where, (texts, length), 0, config.text.vocab_size - 1)
    masks = read_mask(arrays, "text_masks", where, (texts, length), default=ids != PADDING)
    if not masks.any(1).all():
        empty = int(np.flatnonzero(~masks.any(1))[0])
        raise UserError(f"text {empty} has no tokens", where=f"{where}: text_masks", fix="give each text at least one")
    if not masks[:, 0].all():  # the model reads a text's first token as all of it
        what = f"text {masks[:, 0].argmin()} begins with padding"
        raise UserError(what, where=f"{where}: text_masks", fix="pad texts on the right")
    size, mean, std = config.image.image_size, IMAGES.image_mean, IMAGES.image_std
    images = [read_pixels(arrays, name, size, mean, std, where) for name in pixels]
    counts = {name: len(image) for name, image in zip(pixels, images)}
    pairs = max(texts, *counts.values())
    one_for_all = (1, pairs) if config.task == "retrieval" else (pairs,)
    if {texts, *counts.values()} - set(one_for_all):
        rows = ", ".join(f"{name} has {number}" for name, number in {"text_ids": texts, **counts}.items())
        allowed = "as many texts as images" + (", or one of either" if config.task == "retrieval" else "")
        raise UserError(f"the numbers of rows do not match: {rows}", where=where, fix=f"give {allowed}")
    padding = config.text_length - length
    return Pairs(
        F.pad(torch.from_numpy(ids), (0, padding), value=PADDING),
        F.pad(torch.from_numpy(masks), (0, padding)),
        tuple(images),
        torch.arange(pairs) % texts,
        torch.arange(pairs) % len(images[0]),
    )


def write_answers(path: Path, outputs: Mapping[str, torch.Tensor]) -> None:
    """Write the outputs as npz, atomically."""
    with written_whole(path) as file:
        np.savez(file, **{name: value.numpy() for name, value in outputs.items()})


def _require_names(arrays: Mapping[str, NDArray], known: Mapping[str, int], where: str) -> None:
    for name, array in arrays.items():
        if name not in known:
            raise UserError(f"unknown array {name!r}", where=where, fix=f"the arrays are: {', '.join(known)}")
        if array.ndim != known[name]:
            what = f"{name} has shape {list(array.shape)}, expected {known[name]} axes"
            raise UserError(what, where=where, fix="see eas-export run --help")
    for name in known:
        if name != "text_masks" and (name not in arrays or 0 in arrays[name].shape):
            raise UserError(f"{name} is missing or empty", where=where, fix="see eas-export run --help")
