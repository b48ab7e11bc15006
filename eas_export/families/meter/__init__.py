"""METER, METER-EAS and METER-DAS: load.py reads their file, systems.py tells them apart; its texts and images become inputs in families/processing."""

from functools import partial
from pathlib import Path

import torch

from ...checkpoint.state_dict import holds
from ...core.registry import deferred
from ..contract import Family, PairFormat
from ..processing.clip_transform import transform_of
from ..processing.roberta_tokenizer import RobertaTokenizer
from .keys import EVERY_KEY
from .load import load


def detect(path: Path) -> bool:
    if path.is_dir():
        return bool(list(path.glob("*.ckpt")))
    return path.suffix == ".ckpt" or (path.suffix in (".pth", ".pt") and holds(path, EVERY_KEY))


METER = Family(
    name="meter",
    layout="a Lightning checkpoint *.ckpt, or a folder with one, or a state dict as *.ckpt, *.pth or *.pt",
    detect=detect,
    load=load,
    takes=("text_heads", "text_length", "cross_heads", "image_cross_reading", "tokenizer", "labels"),
    pairs=PairFormat(
        tokenizer=RobertaTokenizer,
        image=transform_of,
        answers={"nlvr2": ("false", "true")},
        probabilities={"vqa": torch.sigmoid, "nlvr2": partial(torch.softmax, dim=-1)},
    ),
    witness=deferred(".families.witnesses.meter:open_witness"),
)
