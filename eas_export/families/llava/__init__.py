"""LLaVA-EAS: read.py and load.py read its files, prompt.py makes its prompts, train.py trains its adapters."""

from pathlib import Path

from ...checkpoint.hugging_face import peek_config
from ...checkpoint.layouts import ADAPTER_CONFIG
from ...core.registry import deferred
from ..contract import Family
from .files import MODEL_TYPES
from .load import load
from .prompt import PROMPTS
from .train import train


def detect(path: Path) -> bool:
    """A LoRA's base model need not be known here."""
    return (path / ADAPTER_CONFIG).is_file() or peek_config(path).get("model_type") in MODEL_TYPES


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
