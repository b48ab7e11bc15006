"""Train LLaVA-EAS from LLaVA: its vision tower comes along into the written folder."""

import json
from dataclasses import replace

import torch

from ...checkpoint.hf_files import CONFIG_FILE
from ..contract import Ranks, Sources, Trainable
from ..eas_training import SKIPPED, Kind, put_adapters
from .load import assemble
from .read import read_model

TOWER = "vision_tower"
KINDS = (Kind("adapter_attn", "A", router_bias=False), SKIPPED)


def train(sources: Sources, ranks: Ranks, seed: int, device: torch.device) -> Trainable:
    """A LLaVA with both adapters in every layer. Raises UserError as eas_training.put_adapters and load.load do."""
    model = read_model(sources)
    config = model.config
    dim, layers = config.hidden_size, config.num_hidden_layers
    training = put_adapters(model.tensors, KINDS, dim, layers, sources, ranks, seed, device)
    checkpoint = assemble(sources, replace(model, tensors=training.tensors))
    own_files = {sources.ckpt / CONFIG_FILE, *model.files, *checkpoint.tokenizer}
    tower = [path for path in checkpoint.files if path not in own_files]
    settings = json.loads((sources.ckpt / CONFIG_FILE).read_text("utf-8")) | (
        {"mm_vision_tower": TOWER} if tower else {}
    )
    written = (json.dumps(settings, indent=2) + "\n").encode()
    return training.trainable(checkpoint, sources, written, {f"{TOWER}/{path.name}": path for path in tower})
