"""The cross-encoder. Skipped attentions and layers are built as their replacements; no flag switches one off.

    text   ids - RoBERTa - transform - [classifier token; others] + type - x                    the token is that of RoBERTa where there is none
    image  pixels - ViT - norm - transform + type - y
    layer  a = norm(x + self(x) + P1(x));  z = norm(a + cross(a, other) + P2(a));  out = norm(z + FFN(z)) + P3(z)
           other: the other stream BEFORE the layer; each P where there is one
    skipped layer  out = x + P(x)
    head   cls = [tanh(pooler x[0]); tanh(pooler y[0])]

Tokens are flat, [rows * tokens, dim]. L text tokens, P image tokens, M texts, N images, B pairs of a text and an image (or two).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.configs.cross_encoder import ATTENTIONS, Attention, CrossEncoderConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ..attention import CrossAttention, FeedForward, SelfAttention
from ..skeleton import linear
from ..vision import VisionTransformer
from .adapters import BehindAdapter, Bottleneck, CrossReplacement, SelfReplacement
from .text_encoder import TextEncoder

MASKED = -10000.0  # added to the score of a padded token, as published


class ImageEncoder(VisionTransformer):
    """pixel_values [N, 3, H, W] -> [N*P, width]: all tokens, normalised once more, not projected"""

    def __init__(self, config):
        super().__init__(config)
        self.last_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.last_norm(self.last_hidden(pixel_values).flatten(0, 1))


class CrossLayer(nn.Module):
    """One layer of a stream; `skipped` has the attentions that are replaced. folded: see CrossEncoder"""

    def __init__(self, config: CrossEncoderConfig, tokens: int, other_tokens: int, skipped: set[str], folded: bool):
        super().__init__()
        dim, heads, eps = config.dim, config.heads, config.norm_eps

        def kept(part: nn.Module) -> nn.Module:
            before = config.before_adapter
            if before is None or (folded and before.is_linear):
                return part
            return BehindAdapter(part, Bottleneck(dim, before, bare=folded))

        if "attention" in skipped:
            self.attention = SelfReplacement(dim, config.skipped_adapter.rank, tokens)
        else:
            self.attention = kept(SelfAttention(dim, heads, tokens))
        if "cross_attention" in skipped:
            self.cross_attention = CrossReplacement(dim, config.skipped_adapter.rank, tokens, other_tokens)
        else:
            self.cross_attention = kept(CrossAttention(dim, heads, tokens, other_tokens))
        self.ffn = kept(FeedForward(dim, config.ffn_dim))
        self.attention_norm, self.cross_attention_norm, self.ffn_norm = (nn.LayerNorm(dim, eps=eps) for _ in range(3))
        slots = {part: config.beside_adapter for part in ATTENTIONS if part not in skipped}
        slots["ffn"] = config.behind_adapter
        self.adapters = nn.ModuleDict({slot: Bottleneck(dim, each, folded) for slot, each in slots.items() if each})

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None, other_mask: Tensor | None) -> Tensor:
        """x [B*tokens, dim], other [B*other_tokens, dim]; masks [B, 1, 1, (other_)tokens] or None -> as x"""
        a = self.attention_norm(self._adapted("attention", x + self.attention(x, mask), x))
        crossed = a + self.cross_attention(a, x, other, other_mask)
        z = self.cross_attention_norm(self._adapted("cross_attention", crossed, a))
        return self._adapted("ffn", self.ffn_norm(z + self.ffn(z)), z)

    def _adapted(self, slot: str, y: Tensor, x: Tensor) -> Tensor:
        """y + P(x), y where the slot has no adapter"""
        return y + self.adapters[slot](x) if slot in self.adapters else y


class SkippedLayer(nn.Module):
    """An adapter in place of a whole layer. folded: see CrossEncoder"""

    def __init__(self, config: CrossEncoderConfig, folded: bool):
        super().__init__()
        self.skipped_adapter = Bottleneck(config.dim, config.skipped_adapter, folded)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None, other_mask: Tensor | None) -> Tensor:
        """Reads x alone: [B*tokens, dim] -> the same"""
        return x + self.skipped_adapter(x)


class Classifier(nn.Module):
    """cls_feats [B, width] -> [B, answers]"""

    def __init__(self, width: int, inner: int, answers: int, norm_eps: float):
        super().__init__()
        self.fc1 = linear(width, inner)
        self.norm = nn.LayerNorm(inner, eps=norm_eps)
        self.fc2 = linear(inner, answers)

    def forward(self, cls_feats: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.norm(self.fc1(cls_feats))))


class CrossEncoder(nn.Module):
    """Both encoders, both streams and the head; the graphs call its methods.

    folded  adapters, and norms of adapters, are folded into the linear layers after them wherever that is exact; False: as trained
    """

    def __init__(self, config: CrossEncoderConfig, plan: SkipPlan, folded: bool):
        super().__init__()
        self.config = config
        dim, tokens = config.dim, {"text": config.text_length, "image": config.image_tokens}
        skipped = config.attentions(plan.skipped)

        def layer(name: str, other: str, gone: set[str]) -> nn.Module:
            if gone and config.site == "layer":
                return SkippedLayer(config, folded)
            return CrossLayer(config, tokens[name], tokens[other], gone, folded)

        def stream(name: str, other: str) -> nn.ModuleList:
            return nn.ModuleList(layer(name, other, _parts(skipped, name, i)) for i in range(config.layers))

        self.text = TextEncoder(config.text, config.text_length)
        self.vision = ImageEncoder(config.image)
        self.text_transform = linear(config.text.width, dim)
        self.image_transform = linear(config.image.width, dim)
        self.classifier_token = nn.Parameter(torch.empty(dim)) if config.classifier_token else None
        self.types = nn.Parameter(torch.empty(1 + config.images, dim))  # text, image, NLVR2's second image
        self.text_layers, self.image_layers = stream("text", "image"), stream("image", "text")
        self.text_pooler, self.image_pooler = linear(dim, dim), linear(dim, dim)
        width = 2 * dim * config.images
        if config.task == "retrieval":
            self.head = linear(width, config.answers)
        else:
            self.head = Classifier(width, 2 * dim, config.answers, config.head_norm_eps)

    def mask(self, text_masks: Tensor) -> Tensor:
        """text_masks [M, L] int64, 0 for padding -> the mask that is added to scores, [M, 1, 1, L]"""
        return ((1 - text_masks) * MASKED).to(self.types.dtype)[:, None, None, :]

    def encode_text(self, text_ids: Tensor, mask: Tensor) -> Tensor:
        """text_ids [M, L] int64, mask [M, 1, 1, L] -> [M, L, dim]"""
        return self.enter_text(self.text(text_ids, mask))

    def enter_text(self, x: Tensor) -> Tensor:
        """The text encoder's output as input of the text stream: [M*L, width] -> [M, L, dim]"""
        x = self.text_transform(x).unflatten(0, (-1, self.config.text_length))
        if self.classifier_token is not None:
            x = torch.cat([self.classifier_token.expand(x.shape[0], 1, -1), x[:, 1:]], 1)
        return x + self.types[0]

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [images*N, 3, H, W]; for NLVR2, all first images and then all second ones -> [images*N, P, dim]"""
        return self.enter_images(self.vision(pixel_values))

    def enter_images(self, y: Tensor) -> Tensor:
        """The image encoder's output as input of the image stream: [images*N*P, width] -> [images*N, P, dim]"""
        y = self.image_transform(y)
        y = y.unflatten(0, (self.config.images, -1)) + self.types[1:, None]  # [images, N*P, dim]
        return y.flatten(0, 1).unflatten(0, (-1, self.config.image_tokens))

    def cross(self, text: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """text [B, L, dim], image [B, P, dim], mask [B, 1, 1, L] -> cls_feats [B, 2 dim]"""
        x, y = text.flatten(0, 1), image.flatten(0, 1)
        for text_layer, image_layer in zip(self.text_layers, self.image_layers):
            x, y = text_layer(x, y, mask, None), image_layer(y, x, None, mask)
        return self.pool(x, y)

    def pool(self, x: Tensor, y: Tensor) -> Tensor:
        """Each stream's first token: x [B*L, dim], y [B*P, dim] -> cls_feats [B, 2 dim]"""
        tokens = self.config.text_length, self.config.image_tokens
        first, first_of_image = (z.unflatten(0, (-1, n))[:, 0] for z, n in zip((x, y), tokens))  # [B, dim] each
        return torch.cat([torch.tanh(self.text_pooler(first)), torch.tanh(self.image_pooler(first_of_image))], -1)


def folded_cross_encoder(config: CrossEncoderConfig, plan: SkipPlan, limits: Limits) -> CrossEncoder:
    """The network that is exported."""
    return CrossEncoder(config, plan, folded=True)


def unfolded_cross_encoder(config: CrossEncoderConfig, plan: SkipPlan) -> CrossEncoder:
    """The network as it was trained, the reference for the folded one."""
    return CrossEncoder(config, plan, folded=False)


def _parts(skipped: frozenset[Attention], stream: str, layer: int) -> set[str]:
    return {part for side, part, number in skipped if (side, number) == (stream, layer)}
