"""Train a text decoder of Hugging Face with PIA adapters in LLaVA-EAS's form."""

import torch

from ...checkpoint.hf_files import CONFIG_FILE
from ...checkpoint.hf_text import HEAD_KEY, tie
from ..contract import Ranks, Sources, Trainable
from ..eas_training import SKIPPED, Kind, put_adapters
from .load import assemble, read_config, read_tensors

KINDS = (Kind("adapter_attn", "A"), SKIPPED)


def train(sources: Sources, ranks: Ranks, seed: int, device: torch.device) -> Trainable:
    """A text decoder with both adapters in every layer; a tied head is stored as the embedding alone. Raises UserError as
    eas_training.put_adapters and load.load do."""
    config = read_config(sources.ckpt)
    published, files, said = read_tensors(sources, config)
    published, tied, _ = tie(published, config)
    if tied:
        published = {key: tensor for key, tensor in published.items() if key != HEAD_KEY}
    dim, layers = config.hidden_size, config.num_hidden_layers
    training = put_adapters(published, KINDS, dim, layers, sources, ranks, seed, device)
    checkpoint = assemble(sources, config, training.tensors, files, said)
    return training.trainable(checkpoint, sources, (sources.ckpt / CONFIG_FILE).read_bytes())
