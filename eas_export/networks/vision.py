"""Vision towers: CLIP's ViT, and the features that a decoder reads.

x = norm([class; patches] + positions)
per block: x = x + MHA(norm1(x)); x = x + MLP(norm2(x)); MLP has QuickGELU or GELU
features = projector(x[class] after blocks k, 2k, ...), or projector(x[patches] after the last block)

With adapters (LaVIN) the attention reads adapter(norm1(x)): a kept layer's adapter, whose router sees patches only (EAS), or each token
on its own (LaVIN-7B, DAS).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.configs.adapter import AdapterConfig
from ..core.configs.vit import VisionConfig, VitConfig
from . import ops
from .adapter import Adapter, Router, mean_over, per_token
from .skeleton import linear

ACTIVATIONS = {
    "quick_gelu": lambda x: ops.swish(x, alpha=1.702),
    "gelu": F.gelu,
    "silu": ops.swish,
}


class VisionBlock(nn.Module):
    """x [N*tokens, width] -> the same, with tokens = patches + 1"""

    def __init__(self, config: VitConfig):
        super().__init__()
        width = config.width
        self.heads, self.activation = config.heads, ACTIVATIONS[config.activation]
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.fc1 = linear(width, config.ffn_dim)
        self.fc2 = linear(config.ffn_dim, width)

    def forward(self, x: Tensor, tokens: int) -> Tensor:
        """x [N*tokens, width] -> the same"""
        q, k, v = (self._heads(part, tokens) for part in self.qkv(self.adapt(self.norm1(x), tokens)).chunk(3, -1))
        attended = ops.attend(q, k, v, causal=False)  # [N, heads, tokens, head_dim]
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))

    def adapt(self, n: Tensor, tokens: int) -> Tensor:
        """The attention's input from the block's normalised input: n [N*tokens, width] -> the same"""
        return n

    def _heads(self, x: Tensor, tokens: int) -> Tensor:
        """[N*tokens, width] -> [N, heads, tokens, head_dim]"""
        return x.view(-1, tokens, self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class AdapterVisionBlock(VisionBlock):
    """The attention reads adapter(norm1(x)); the router reads the mean of each image's patches."""

    def __init__(self, config: VitConfig, adapter: AdapterConfig):
        super().__init__(config)
        self.router = Router(config.width)
        self.adapter = Adapter(config.width, adapter)

    def adapt(self, n: Tensor, tokens: int) -> Tensor:
        return self.adapter(n, self.adapter.spread(self.route(n, tokens)))

    def route(self, n: Tensor, tokens: int) -> Tensor:
        """Each token's router weights: n [N*tokens, width] -> [N*tokens, 2] float32"""
        patches = torch.full((1, tokens - 1), 1 / (tokens - 1), dtype=torch.float32, device=n.device)
        weights = torch.cat([torch.zeros_like(patches[:, :1]), patches], 1)  # without the class token
        return per_token(self.router(mean_over(n.unflatten(0, (-1, tokens)), weights)), tokens)


class TokenAdapterVisionBlock(AdapterVisionBlock):
    """The same, but the router reads each token on its own."""

    def route(self, n: Tensor, tokens: int) -> Tensor:
        return self.router(n.float())


ADAPTED = {"prompt": AdapterVisionBlock, "token": TokenAdapterVisionBlock}  # by AdapterConfig.router


class VisionTransformer(nn.Module):
    """Embeddings and blocks; subclasses choose the outputs."""

    def __init__(self, config: VitConfig, make_block: Callable[[VitConfig], VisionBlock] = VisionBlock):
        super().__init__()
        self.tokens = config.patches + 1
        self.patch = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(config.width))
        self.position_embedding = nn.Parameter(torch.empty(self.tokens, config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(make_block(config) for _ in range(config.blocks))

    def embed(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [N, 3, H, W] -> [N*tokens, width] before the first block"""
        patches = self.patch(pixel_values).flatten(2).transpose(1, 2)  # [N, patches, width]
        cls = self.class_embedding.expand(patches.shape[0], 1, -1)  # [N, 1, width]
        return self.norm(torch.cat([cls, patches], 1) + self.position_embedding).flatten(0, 1)

    def last_hidden(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [N, 3, H, W] -> [N, tokens, width] after the last block"""
        x = self.embed(pixel_values)
        for block in self.blocks:
            x = block(x, self.tokens)
        return x.unflatten(0, (-1, self.tokens))


class VisionTower(VisionTransformer):
    """pixel_values [N, 3, H, W] -> image_features [N, features, dim]"""

    def __init__(self, config: VisionConfig, dim: int):
        def make_block(config: VisionConfig) -> VisionBlock:
            adapter = config.adapter
            return ADAPTED[adapter.router](config, adapter) if adapter else VisionBlock(config)

        super().__init__(config, make_block)
        self.feature_every, self.activation = config.feature_every, ACTIVATIONS[config.projector_activation]
        self.project1 = linear(config.width, config.projector_width)
        self.project2 = linear(config.projector_width, dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.project2(self.activation(self.project1(self.features(pixel_values))))


class PatchTower(VisionTower):
    """The features are the patches after the last block."""

    def features(self, pixel_values: Tensor) -> Tensor:
        return self.last_hidden(pixel_values)[:, 1:]  # [N, patches, width]


class ClassTower(VisionTower):
    """The features are the class token after every `feature_every` blocks."""

    def features(self, pixel_values: Tensor) -> Tensor:
        x, features = self.embed(pixel_values), []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, self.tokens)
            if number % self.feature_every == 0:
                features.append(x.unflatten(0, (-1, self.tokens))[:, 0])  # [N, width]
        return torch.stack(features, 1)  # [N, blocks / feature_every, width]


TOWERS = {"class": ClassTower, "patches": PatchTower}  # by VisionConfig.features
