"""LLaVA-EAS, see llava_load.py for its files, llava_prompt.py for what it is asked and llava_train.py for how it comes about."""

import json
from pathlib import Path

from ..checkpoint.hugging_face import CONFIG_FILE
from ..family import Family
from .llava_files import MODEL_TYPES
from .llava_load import load
from .llava_prompt import PROMPTS
from .llava_train import train

LARGEST_CONFIG = 1 << 20  # bytes


def detect(path: Path) -> bool:
    config = path / CONFIG_FILE
    if not config.is_file() or config.stat().st_size > LARGEST_CONFIG:
        return False
    try:
        said = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("model_type") in MODEL_TYPES


LLAVA = Family(
    name="llava",
    layout="LLaVA-EAS's Hugging Face folder, with config.json and weights",
    detect=detect,
    load=load,
    takes=("vision", "base_weights", "router_temperature", "adapter_scale"),
    prompts=PROMPTS,
    shortcuts=("published fold",),
    train=train,
)
