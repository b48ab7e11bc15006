"""The npz files that `run` and `verify` read and write for cross-encoders.

In   text_ids [M, L] · text_masks [M, L] (ones, then zeros; default: 0 where the id is 1) · pixel_values [N, 3, H, W], and
     pixel_values_1 for models of two images; M equals N or, for retrieval, one of them is 1: it is paired with each of the others
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

FIRST = 0  # RoBERTa's <s>: begins a text, and never ends one
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
    _require_padded_as_trained(ids, masks, "text_masks" in arrays, where)
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


def _require_padded_as_trained(ids: NDArray[np.int64], masks: NDArray[np.int64], given: bool, where: str) -> None:
    """Raise UserError unless each text is one run of tokens and then padding, which is read, too: in the means of skipped attentions.

    given  whether the mask is the user's: then padding's id may stand inside a text, as RoBERTa's tokenizer reads "<pad>"
    """
    numbers = masks.sum(1)
    last = ids[np.arange(len(ids)), numbers - 1]  # token of each text
    right = f"pad texts on the right, with the id {PADDING}"
    holes = (np.diff(masks, axis=1) > 0).any(1)
    not_padding = ((masks == 0) & (ids != PADDING)).any(1)
    for wrong, what, fix in (
        (numbers == 0, "has no tokens", "give each text at least one"),
        (masks[:, 0] == 0, "begins with padding", right),  # the model reads a text's first token as all of it
        (holes & given, "has zeros between the ones of its mask", right),
        (holes, f"has padding (id {PADDING}) between its tokens", f"{right}, or give text_masks"),
        (not_padding, f"has other ids than {PADDING} where text_masks is 0", right),
        (last == PADDING, f"ends with padding (id {PADDING}) where text_masks is 1", "write 0 there"),
        (
            (last == FIRST) & (numbers > 1),
            f"ends with the id {FIRST} (<s>), as texts padded for other models do",
            right,
        ),
    ):
        if wrong.any():
            array = "text_masks" if given else "text_ids"
            raise UserError(f"text {wrong.argmax()} {what}", where=f"{where}: {array}", fix=fix)


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
