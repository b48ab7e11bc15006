"""A batch of prompts as adapters need it, and what makes an adapter's router weights of it, by AdapterConfig.router."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter import Router, mean_over, per_token


@dataclass(frozen=True)
class Prompt:
    """A batch of prompts of L positions each, as adapters need it.

    router_mean  [B, L] weights of the router's mean: without the modality token
    pooled_mean  [B, L] weights of the pooled feature's mean: with it
    modality     [B] int64: 1 for a prompt with an image
    """

    batch: int
    length: int
    router_mean: Tensor
    pooled_mean: Tensor
    modality: Tensor

    def mean(self, n: Tensor, weights: Tensor) -> Tensor:
        """n [B*L, dim], weights [B, L] float32 -> [B, dim] float32"""
        return mean_over(n.unflatten(0, (self.batch, self.length)), weights)

    def modality_of_tokens(self) -> Tensor:
        """Each token's prompt's: [B*L] int64"""
        return per_token(self.modality[:, None], self.length).flatten()


class PromptRouter(Router):
    """Reads each prompt's mean, or its modality token."""

    def forward(self, n: Tensor, prompt: Prompt) -> Tensor:
        """n [B*L, dim] -> [B, 2] float32"""
        return super().forward(prompt.mean(n, prompt.router_mean))


class ConstantRouter(nn.Module):
    """The router weights of each modality: without an image, with one."""

    def __init__(self, dim: int):
        super().__init__()
        self.table = nn.Parameter(torch.empty(2, 2, dtype=torch.float32))

    def forward(self, n: Tensor, prompt: Prompt) -> Tensor:
        """[B, 2] float32"""
        return F.embedding(prompt.modality, self.table)


ROUTERS = {"prompt": PromptRouter, "modality": PromptRouter, "constant": ConstantRouter}  # by AdapterConfig.router
MODALITIES = ("text", "image")  # in the order of the modality token's embeddings
