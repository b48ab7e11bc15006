"""encode: texts and images -> logits, in one pass

VQA, NLVR2
Inputs   text_ids [B, L] int64 · text_masks [B, L] int64 · pixel_values [B, 3, H, W] · NLVR2: pixel_values_1 [B, 3, H, W]
Outputs  logits [B, answers] float32 · cls_feats [B, 2 dim] float32 (NLVR2: 4 dim, the first image's first)

Retrieval, where each text and each image is encoded once for all its pairs
Inputs   text_ids [M, L] int64 · text_masks [M, L] int64 · pixel_values [N, 3, H, W] · text_index [B] int64 · image_index [B] int64
Outputs  scores [B] float32 · cls_feats [B, 2 dim] float32

L is the trained padded length. Padding is id 1 with mask 0.
"""

import torch
from torch import Tensor, nn

from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.graph_spec import Dim, GraphSpec, TensorSpec
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import Precision
from ..contract import Graph

PIXELS = ("pixel_values", "pixel_values_1")  # inputs for the first and the second image


class AnswerGraph(nn.Module):
    """VQA and NLVR2: every text with its own image, or two."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        network, images = self.network, self.network.config.images
        mask = network.mask(inputs["text_masks"])  # [B, 1, 1, L]
        text = network.encode_text(inputs["text_ids"], mask)  # [B, L, dim]
        image = network.encode_images(torch.cat([inputs[name] for name in PIXELS[:images]]))  # [images*B, P, dim]
        pairs = network.cross(torch.cat([text] * images), image, torch.cat([mask] * images))  # [images*B, 2 dim]
        cls_feats = pairs.unflatten(0, (images, -1)).transpose(0, 1).flatten(1)  # [B, images * 2 dim]
        return {"logits": network.head(cls_feats).float(), "cls_feats": cls_feats.float()}


class RetrievalGraph(nn.Module):
    """Retrieval: pairs as indices into the texts and the images."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        network, texts, images = self.network, inputs["text_index"], inputs["image_index"]
        mask = network.mask(inputs["text_masks"])  # [M, 1, 1, L]
        text = network.encode_text(inputs["text_ids"], mask)  # [M, L, dim]
        image = network.encode_images(inputs["pixel_values"])  # [N, P, dim]
        cls_feats = network.cross(
            text.index_select(0, texts), image.index_select(0, images), mask.index_select(0, texts)
        )  # [B, 2 dim]
        return {"scores": network.head(cls_feats).squeeze(-1).float(), "cls_feats": cls_feats.float()}


def encode_module(network: nn.Module) -> nn.Module:
    """The graph for the network's task."""
    return (RetrievalGraph if network.config.task == "retrieval" else AnswerGraph)(network)


def encode_spec(config: CrossEncoderConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    """Inputs and outputs as above, with at most max_batch texts, images and pairs."""
    pairs = config.task == "retrieval"
    texts, images = ("M", "N") if pairs else ("B", "B")
    size = config.image.image_size
    names = PIXELS[: config.images]
    pixels = (TensorSpec(name=n, dtype=precision.dtype, shape=(images, 3, size, size)) for n in names)
    indices = (TensorSpec(name=name, dtype="int64", shape=("B",)) for name in ("text_index", "image_index"))
    shape, head = (("B",), "scores") if pairs else (("B", config.answers), "logits")
    width = 2 * config.dim * config.images
    free = Dim(min=1, opt=limits.max_batch, max=limits.max_batch, limit="max-batch")
    return GraphSpec(
        name="encode",
        dims=dict.fromkeys(("B", "M", "N") if pairs else ("B",), free),
        inputs=(
            *(TensorSpec(name=n, dtype="int64", shape=(texts, config.text_length)) for n in ("text_ids", "text_masks")),
            *pixels,
            *(indices if pairs else ()),
        ),
        outputs=(
            TensorSpec(name=head, dtype="float32", shape=shape),
            TensorSpec(name="cls_feats", dtype="float32", shape=("B", width)),
        ),
    )


def encode_reads(plan: SkipPlan, name: str) -> bool:
    return True  # the only graph


ENCODE = Graph(encode_module, encode_spec, encode_reads)
