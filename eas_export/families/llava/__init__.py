"""LLaVA-EAS: read.py and load.py read its files, prompt.py makes its prompts, train.py trains its adapters."""

import json
from pathlib import Path

from ...checkpoint.hf_files import CONFIG_FILE
from ...checkpoint.layouts import ADAPTER_CONFIG
from ...core.registry import deferred
from ..contract import Family
from .files import MODEL_TYPES
from .load import load
from .prompt import PROMPTS
from .train import train

LARGEST_CONFIG = 1 << 20  # bytes


def detect(path: Path) -> bool:
    config = path / CONFIG_FILE
    if (path / ADAPTER_CONFIG).is_file():  # a LoRA, whose base model need not be known here
        return True
    if not config.is_file() or config.stat().st_size > LARGEST_CONFIG:
        return False
    try:
        values = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("model_type") in MODEL_TYPES


LLAVA = Family(
    name="llava",
    layout="LLaVA-EAS's Hugging Face folder, with config.json and weights, or a LoRA with --base-weights",
    detect=detect,
    load=load,
    takes=("vision", "base_weights", "tokenizer", "router_temperature", "adapter_scale"),
    prompts=PROMPTS,
    published_deviations=("published fold",),
    train=train,
    witness=deferred(".families.witnesses.llava:open_witness"),
)
