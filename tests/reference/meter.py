"""METER-EAS once more, written naively: a second, independent transcription to check the real network against.

Source: the EAS paper "Not All Attention is Needed" and the published METER-EAS files (one Lightning checkpoint: RoBERTa, CLIP's
ViT, two streams of cross-modal layers). It shares no code with the product and runs eagerly, one sample at a time, unfolded.

Letters: L text tokens (padding included), P image tokens, H the hidden width; x a stream's layer input, other the other
stream's, both as they were before the layer.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .files import read_meter


class MeterReference:
    """A checkpoint and a list of skip indices, run as published.

    reading     what indices 18..23 mean: "published" image self again, "paper" image cross
    text_heads  of RoBERTa, which no file tells
    """

    def __init__(self, file: Path, skip: list[int], text_heads: int, reading: str = "published"):
        weights, settings = read_meter(file)
        self.weights: dict[str, Tensor] = {name: value.float() for name, value in weights.items()}
        self.heads, self.text_heads = settings["num_heads"], text_heads
        self.layers = settings["num_top_layer"]
        names = {0: ("text", "attention"), 1: ("text", "crossattention"), 2: ("image", "attention")}
        names[3] = ("image", "attention") if reading == "published" else ("image", "crossattention")
        self.skipped = {(*names[index // self.layers], index % self.layers) for index in skip}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def conv(self, name: str, x: Tensor) -> Tensor:
        """A 1x1 convolution over the tokens of x [T, in]: B has two groups, A and C have one."""
        groups = 2 if name.endswith("conv_B") else 1
        return F.conv1d(x.T[None], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], groups=groups)[0].T

    def adapted(self, name: str, x: Tensor) -> Tensor:
        """F(x) = x + B(C x + c) + b"""
        return x + self.conv(f"{name}.conv_B", self.conv(f"{name}.conv_C", x))

    def replaced(self, name: str, x0: Tensor, x1: Tensor) -> Tensor:
        """R(x0, x1) = B(0.5 (C x0 + c + mean(A x1 + a))) + b, the mean over all tokens of x1, padding too"""
        pooled = self.conv(f"{name}.conv_A", x1).mean(0)  # [R]
        return self.conv(f"{name}.conv_B", 0.5 * (self.conv(f"{name}.conv_C", x0) + pooled))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor) -> Tensor:
        """Softmax attention, head by head; mask [keys] is added to each query's scores. q [T, width]; k, v [keys, width]"""
        mixed = []
        for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
            mixed.append(torch.softmax(qh @ kh.T / qh.shape[-1] ** 0.5 + mask, -1) @ vh)
        return torch.cat(mixed, -1)

    def attention(self, name: str, queries: Tensor, keys: Tensor, heads: int, mask: Tensor) -> Tensor:
        """Wo MHA(q = queries, k = v = keys), as BERT names its parts"""
        q = self.linear(f"{name}.self.query", queries)
        k, v = (self.linear(f"{name}.self.{part}", keys) for part in ("key", "value"))
        return self.linear(f"{name}.output.dense", self.attend(q, k, v, heads, mask))

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """RoBERTa: ids [L] -> [L, width]; mask [L] is -10000 for padding, else 0"""
        name = "text_transformer.embeddings"
        real = (ids != 1).long()
        places = real.cumsum(0) * real + 1
        x = self.weights[f"{name}.word_embeddings.weight"][ids]
        x = x + self.weights[f"{name}.position_embeddings.weight"][places]
        x = self.norm(f"{name}.LayerNorm", x + self.weights[f"{name}.token_type_embeddings.weight"][0])
        i = 0
        while f"text_transformer.encoder.layer.{i}.output.dense.weight" in self.weights:
            name = f"text_transformer.encoder.layer.{i}"
            mixed = self.attention(f"{name}.attention", x, x, self.text_heads, mask)
            x = self.norm(f"{name}.attention.output.LayerNorm", x + mixed)
            inner = F.gelu(self.linear(f"{name}.intermediate.dense", x))
            x = self.norm(f"{name}.output.LayerNorm", x + self.linear(f"{name}.output.dense", inner))
            i += 1
        return x

    def encode_image(self, image: Tensor) -> Tensor:
        """CLIP's ViT, every token after ln_post, no projection: image [3, H, W] -> [P, width]"""
        name = "vit_model.visual"
        kernel = self.weights[f"{name}.conv1.weight"]
        patches = F.conv2d(image[None], kernel, stride=kernel.shape[-1])[0].flatten(1).T  # [P - 1, width]
        x = torch.cat([self.weights[f"{name}.class_embedding"][None], patches])
        x = self.norm(f"{name}.ln_pre", x + self.weights[f"{name}.positional_embedding"])
        i = 0
        while f"{name}.transformer.resblocks.{i}.ln_1.weight" in self.weights:
            block = f"{name}.transformer.resblocks.{i}"
            weight, bias = self.weights[f"{block}.attn.in_proj_weight"], self.weights[f"{block}.attn.in_proj_bias"]
            q, k, v = F.linear(self.norm(f"{block}.ln_1", x), weight, bias).chunk(3, -1)
            mixed = self.attend(q, k, v, x.shape[-1] // 64, torch.zeros(len(x)))
            x = x + self.linear(f"{block}.attn.out_proj", mixed)
            z = self.linear(f"{block}.mlp.c_fc", self.norm(f"{block}.ln_2", x))
            x = x + self.linear(f"{block}.mlp.c_proj", z * torch.sigmoid(1.702 * z))  # QuickGELU
            i += 1
        return self.norm(f"{name}.ln_post", x)

    def layer(self, stream: str, i: int, x: Tensor, other: Tensor, mask: Tensor, other_mask: Tensor) -> Tensor:
        """a = LN(x + self), z = LN(a + cross), out = LN(z + FFN), each LN with eps 1e-12"""
        name = f"cross_modal_{stream}_layers.{i}"
        if (stream, "attention", i) in self.skipped:
            mixed = self.replaced(f"{name}.adapter_self_attn", x, x)
        else:
            seen = self.adapted(f"{name}.attention.adapter", x)
            mixed = self.attention(f"{name}.attention", seen, seen, self.heads, mask)
        a = self.norm(f"{name}.attention.output.LayerNorm", x + mixed, 1e-12)
        if (stream, "crossattention", i) in self.skipped:
            mixed = self.replaced(f"{name}.adapter_cross_attn", x, other)  # x is the layer's input, not a
        else:
            seen = self.adapted(f"{name}.crossattention.adapter", a)
            mixed = self.attention(f"{name}.crossattention", seen, other, self.heads, other_mask)
        z = self.norm(f"{name}.crossattention.output.LayerNorm", a + mixed, 1e-12)
        inner = F.gelu(self.linear(f"{name}.intermediate.dense", self.adapted(f"{name}.intermediate.adapter", z)))
        return self.norm(f"{name}.output.LayerNorm", z + self.linear(f"{name}.output.dense", inner), 1e-12)

    def classifier_token(self, x: Tensor) -> Tensor:
        """token4classifier takes the place of text position 0"""
        return torch.cat([self.weights["token4classifier"][0], x[1:]])

    def infer(self, ids: Tensor, mask: Tensor, image: Tensor, image_type: int = 1) -> dict[str, Tensor]:
        """One text and one image through both streams; names as in golden.npz."""
        added = torch.where(mask == 0, -10000.0, 0.0)  # [L]
        got = {"text_encoder_out": self.encode_text(ids, added), "image_encoder_out": self.encode_image(image)}
        x = self.classifier_token(self.linear("cross_modal_text_transform", got["text_encoder_out"]))
        y = self.linear("cross_modal_image_transform", got["image_encoder_out"])
        types = self.weights["token_type_embeddings.weight"]
        x, y = x + types[0], y + types[image_type]
        nothing = torch.zeros(len(y))
        got |= {"text_hidden_0": x, "image_hidden_0": y}
        for i in range(self.layers):
            x, y = self.layer("text", i, x, y, added, nothing), self.layer("image", i, y, x, nothing, added)
            got |= {f"text_hidden_{i + 1}": x, f"image_hidden_{i + 1}": y}
        pools = [torch.tanh(self.linear(f"cross_modal_{s}_pooler.dense", t[0])) for s, t in (("text", x), ("image", y))]
        return got | {"text_feats": x, "image_feats": y, "cls_feats": torch.cat(pools)}

    def classify(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.3", F.gelu(self.norm(f"{name}.1", self.linear(f"{name}.0", x))))

    @torch.no_grad()
    def run(self, ids: Tensor, mask: Tensor, *images: Tensor) -> dict[str, Tensor]:
        """One sample: ids, mask [L], an image [3, H, W] (NLVR2: two); the task is told by the head that the file holds.

        Returns cls_feats, all that `infer` gives (NLVR2: under "img0." and "img1."), and logits [answers] or scores [].
        """
        if "nlvr2_classifier.0.weight" in self.weights:
            passes = [self.infer(ids, mask, image, 1 + i) for i, image in enumerate(images)]
            got = {f"img{i}.{name}": value for i, part in enumerate(passes) for name, value in part.items()}
            got["cls_feats"] = torch.cat([part["cls_feats"] for part in passes])
            return got | {"logits": self.classify("nlvr2_classifier", got["cls_feats"])}
        got = self.infer(ids, mask, *images)
        if "rank_output.weight" in self.weights:
            return got | {"scores": self.linear("rank_output", got["cls_feats"])[0]}
        return got | {"logits": self.classify("vqa_classifier", got["cls_feats"])}
