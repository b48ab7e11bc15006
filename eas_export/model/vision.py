"""CLIP's ViT with a PIA adapter before every attention, read at its class token every few blocks (LaVIN).

x = ln_pre([class; patches] + positions)
per block: x = x + MHA(adapter(norm1(x))); x = x + MLP(norm2(x)); MLP has QuickGELU
feature = projector(x[class]) after blocks k, 2k, ...; the adapter is a kept layer's, its router sees patches only
"""

import torch
from torch import Tensor, nn

from ..config import VisionConfig
from . import ops
from .adapter import Adapter, Router, mean_over, per_token

LAYER_NORM_EPS = 1e-5


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.router = Router(width)
        self.adapter = Adapter(width, config.adapter)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, router_weights: Tensor) -> Tensor:
        """x [N*tokens, width]; router_weights [1, tokens], the mean's -> [N*tokens, width]"""
        tokens = router_weights.shape[1]
        n = self.norm1(x)
        router = self.router(mean_over(n.unflatten(0, (-1, tokens)), router_weights))  # [N, 2]
        y = self.adapter(n, per_token(self.adapter.spread(router), tokens))
        q, k, v = (self._heads(part, tokens) for part in self.qkv(y).chunk(3, -1))
        attended = ops.attend(q, k, v, causal=False)  # [N, heads, tokens, head_dim]
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        return x + self.fc2(ops.swish(self.fc1(self.norm2(x)), alpha=1.702))

    def _heads(self, x: Tensor, tokens: int) -> Tensor:
        """[N*tokens, width] -> [N, heads, tokens, head_dim]"""
        return x.view(-1, tokens, self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class AdapterVisionTower(nn.Module):
    """pixel_values [N, 3, H, W] -> image_features [N, tokens, dim]"""

    def __init__(self, config: VisionConfig, dim: int):
        super().__init__()
        self.config = config
        self.patch = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(config.width))
        self.position_embedding = nn.Parameter(torch.empty(config.patches + 1, config.width))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.tokens * config.feature_every))
        self.project1 = nn.Linear(config.width, config.projector_width)
        self.project2 = nn.Linear(config.projector_width, dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self.patch(pixel_values).flatten(2).transpose(1, 2)  # [N, patches, width]
        cls = self.class_embedding.expand(patches.shape[0], 1, -1)  # [N, 1, width]
        x = self.norm(torch.cat([cls, patches], 1) + self.position_embedding)  # [N, tokens, width]
        tokens = x.shape[1]
        x = x.flatten(0, 1)
        others = torch.full((1, self.config.patches), 1 / self.config.patches, dtype=torch.float32, device=x.device)
        others = torch.cat([torch.zeros_like(others[:, :1]), others], 1)  # the class token is not in the router's mean
        features = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, others)
            if number % self.config.feature_every == 0:
                features.append(x.unflatten(0, (-1, tokens))[:, 0])  # [N, width]
        stacked = torch.stack(features, 1)  # [N, tokens, width]
        return self.project2(ops.swish(self.project1(stacked)))
