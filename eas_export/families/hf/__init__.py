"""Text decoders of Hugging Face, plain or with PIA adapters: load.py reads their files, train.py puts adapters into
them, prompt.py makes their prompts."""

from pathlib import Path

from ...checkpoint.architectures import ARCHITECTURES, REFUSED
from ...checkpoint.hugging_face import peek_config
from ...core.registry import deferred
from ..contract import Family
from .load import load
from .prompt import PROMPTS
from .train import train


def detect(path: Path) -> bool:
    """Whether its config.json is a text decoder's, of an architecture that is supported or refused by name, or of another causal model."""
    values = peek_config(path)
    classes = values.get("architectures")
    causal = isinstance(classes, list) and any(str(name).endswith("ForCausalLM") for name in classes)
    return causal or values.get("model_type") in (*ARCHITECTURES, *REFUSED)


HF = Family(
    name="hf",
    layout="a text decoder's Hugging Face folder, with config.json and weights",
    detect=detect,
    load=load,
    takes=("tokenizer", "router_temperature", "adapter_scale"),
    prompts=PROMPTS,
    train=train,
    witness=deferred(".families.witnesses.hf:open_witness"),
)
