"""A table of embeddings that is filled later."""

import torch
from torch import nn


def embedding(rows: int, width: int) -> nn.Embedding:
    """Without the normal numbers that torch draws for a new one: on a meta device drawing them alone imports torch's compiler, a second."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))
