"""LLaVA-EAS once more, written naively: a second, independent transcription to check the real network against.

Source: the EAS paper "Not All Attention is Needed" and the published LLaVA-EAS files (a Hugging Face folder of the LLaVA-1.5
layout and a CLIPVisionModel folder). It shares no code with the product and runs eagerly, one prompt at a time.
Semantics are frozen: p (pooled features) and w (router weights) come from the prefill and stay during decode.
There is no KV cache: a decode call runs the whole sequence again under the frozen p and w, and reads its last row.

Letters: T positions, h adapter width, N image tokens, s adapter scale, t router temperature, n the normalised layer input.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .files import read_llava

IMAGE = -200  # the token id that an image's features take the place of


def rotate(x: Tensor, theta: float) -> Tensor:
    """RoPE with half-split pairs (i, i + d/2), positions 0, 1, ..., on x [T, heads, d]."""
    d = x.shape[-1]
    angles = [[position * theta ** (-i / d) for i in range(0, d, 2)] for position in range(len(x))]
    cos, sin = (f(torch.tensor(angles, dtype=x.dtype))[:, None] for f in (torch.cos, torch.sin))  # [T, 1, d/2]
    first, second = x[..., : d // 2], x[..., d // 2 :]  # [T, heads, d/2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)  # [T, heads, d]


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v, head by head; q [T, heads, d], k, v [T, kv_heads, d], allowed [T, T] (query, key)."""
    group, outputs = q.shape[1] // k.shape[1], []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head // group].T / math.sqrt(q.shape[-1])  # [T, T]
        outputs.append(scores.masked_fill(~allowed, -math.inf).softmax(-1) @ v[:, head // group])  # [T, d]
    return torch.cat(outputs, -1)  # [T, heads * d]


class LlavaReference:
    """LLaVA-EAS for one prompt; `skip` defaults to the layers that have a replaced_adapter, `tower` to the config's folder."""

    def __init__(
        self,
        folder: str | Path,
        skip: Sequence[int] | None = None,
        temperature: float = 10.0,
        scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
        tower: Path | None = None,
    ) -> None:
        weights, self.config, self.clip = read_llava(Path(folder), tower)
        self.weights = {name: value.to(dtype) for name, value in weights.items()}
        self.weights.setdefault("lm_head.weight", self.weights["model.embed_tokens.weight"])  # a tied head
        self.dtype, self.temperature, self.scale = dtype, temperature, scale
        self.layers, self.theta = self.config["num_hidden_layers"], self.config.get("rope_theta", 10000.0)
        own = {int(name.split(".")[2]) for name in weights if ".replaced_adapter." in name}
        self.skip = own if skip is None else set(skip)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        eps = self.clip.get("layer_norm_eps", 1e-5)
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def rms_norm(self, name: str, x: Tensor) -> Tensor:
        return (
            x / (x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]).sqrt() * self.weights[f"{name}.weight"]
        )

    def conv(self, name: str, x: Tensor) -> Tensor:
        """A 1x1 convolution over the tokens of x [T, in]: B and D have two groups, A and C have one."""
        groups = 2 if name.endswith(("conv_B", "conv_D")) else 1
        return F.conv1d(x.T[None], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], groups=groups)[0].T

    def route(self, name: str, n: Tensor) -> Tensor:
        """Router (Eq. 6): w = softmax((E mean n + e) / t), the mean over all positions."""
        return torch.softmax(self.linear(f"{name}.expert_weights", n.mean(0)) / self.temperature, -1)  # [2]

    def mix(self, name: str, n: Tensor, h: Tensor, w: Tensor) -> Tensor:
        """y = n + s [ w0 (B h + b) + w1 (D h + d) ]."""
        return n + self.scale * (w[0] * self.conv(f"{name}.conv_B", h) + w[1] * self.conv(f"{name}.conv_D", h))

    def feed_forward(self, name: str, z: Tensor) -> Tensor:
        """FFN(z) = down(silu(gate z) * up z)."""
        return self.linear(
            f"{name}.down_proj", F.silu(self.linear(f"{name}.gate_proj", z)) * self.linear(f"{name}.up_proj", z)
        )

    def kept_layer(self, i: int, x: Tensor, router: dict[int, Tensor]) -> Tensor:
        """h = A n + a;  y = mix;  x1 = x + Attention(y);  out = x1 + FFN(RMSNorm(x1))."""
        name, adapter = f"model.layers.{i}", f"model.layers.{i}.adapter_attn"
        n = self.rms_norm(f"{name}.input_layernorm", x)  # [T, dim]
        w = router.setdefault(i, self.route(adapter, n))  # frozen: what the prefill stored stays  [2]
        y = self.mix(adapter, n, self.conv(f"{adapter}.conv_A", n), w)  # [T, dim]
        d = x.shape[-1] // self.config["num_attention_heads"]
        q, k, v = (self.linear(f"{name}.self_attn.{c}_proj", y).unflatten(-1, (-1, d)) for c in "qkv")
        allowed = torch.tensor([[key <= query for key in range(len(x))] for query in range(len(x))])
        mixed = attend(rotate(q, self.theta), rotate(k, self.theta), v, allowed)  # [T, dim]
        x1 = x + self.linear(f"{name}.self_attn.o_proj", mixed)
        return x1 + self.feed_forward(f"{name}.mlp", self.rms_norm(f"{name}.post_attention_layernorm", x1))

    def skipped_layer(self, i: int, x: Tensor, router: dict[int, Tensor], pooled: dict[int, Tensor]) -> Tensor:
        """h = 0.5 (p + C n + c);  y = mix;  out = x + FFN(y * ffn_norm.weight): one norm, one residual."""
        name, adapter = f"model.layers.{i}", f"model.layers.{i}.replaced_adapter"
        n = self.rms_norm(f"{name}.input_layernorm", x)  # [T, dim]
        w = router.setdefault(i, self.route(adapter, n))  # frozen: what the prefill stored stays  [2]
        p = pooled.setdefault(i, self.conv(f"{adapter}.conv_A", n).mean(0))  # Eq. 4: mean(A n + a)  [h]
        h = 0.5 * (p + self.conv(f"{adapter}.conv_C", n))  # [T, h]
        y = self.mix(adapter, n, h, w)  # [T, dim]
        return x + self.feed_forward(f"{name}.mlp", y * self.weights[f"{name}.post_attention_layernorm.weight"])

    def encode_image(self, image: Tensor) -> Tensor:
        """mm_projector of CLIP's hidden_states[select_layer] without the class token."""
        kernel = self.weights["vision_model.embeddings.patch_embedding.weight"]  # [width, 3, patch, patch]
        patches = F.conv2d(image[None], kernel, stride=kernel.shape[-1])[0].flatten(1).T  # [N, width]
        x = torch.cat([self.weights["vision_model.embeddings.class_embedding"][None], patches])  # [N + 1, width]
        x = x + self.weights["vision_model.embeddings.position_embedding.weight"]
        x = self.layer_norm("vision_model.pre_layrnorm", x)
        hidden_states = [x]
        for i in range(self.clip["num_hidden_layers"]):
            name = f"vision_model.encoder.layers.{i}"
            n, heads = self.layer_norm(f"{name}.layer_norm1", x), self.clip["num_attention_heads"]
            q, k, v = (self.linear(f"{name}.self_attn.{c}_proj", n).unflatten(-1, (heads, -1)) for c in "qkv")
            x = x + self.linear(
                f"{name}.self_attn.out_proj", attend(q, k, v, torch.ones(len(x), len(x), dtype=torch.bool))
            )
            z = self.linear(f"{name}.mlp.fc1", self.layer_norm(f"{name}.layer_norm2", x))
            z = z * torch.sigmoid(1.702 * z) if self.clip["hidden_act"] == "quick_gelu" else F.gelu(z)
            x = x + self.linear(f"{name}.mlp.fc2", z)
            hidden_states.append(x)
        features = hidden_states[self.config["mm_vision_select_layer"]][1:]  # [N, width]
        return self.linear("model.mm_projector.2", F.gelu(self.linear("model.mm_projector.0", features)))

    @torch.no_grad()
    def run(self, input_ids: Sequence[int], images: Sequence[Tensor] = (), forced_tokens: Sequence[int] = ()) -> dict:
        """Prefill on input_ids (with IMAGE where an image goes, images in order), then one decode call per forced token.

        Returns logits [steps + 1, vocab] and, of the prefill, hidden [layers, T, dim] after each layer, router
        [layers, 2], pooled [layers, h] (NaN for kept layers), image_embeds [images, N, dim] (None for a text prompt).
        """
        table, rows = self.weights["model.embed_tokens.weight"], []  # of [dim]
        embeds = [self.encode_image(torch.as_tensor(image, dtype=self.dtype)) for image in images]  # of [N, dim]
        waiting = list(embeds)
        for token in map(int, input_ids):
            rows += list(waiting.pop(0)) if token == IMAGE else [table[token]]
        assert not waiting, "more images than places for them"
        router, pooled = {}, {}
        hidden = self.forward(rows, router, pooled)  # fills router and pooled
        last = [hidden[-1, -1]]  # of [dim]
        for token in forced_tokens:
            rows.append(table[int(token)])
            last.append(self.forward(rows, router, pooled)[-1, -1])
        logits = self.linear("lm_head", self.rms_norm("model.norm", torch.stack(last)))  # [steps + 1, vocab]
        w = torch.stack([router[i] for i in range(self.layers)])
        nothing = torch.full_like(next(iter(pooled.values())) if pooled else w[0, :1], math.nan)  # [h]
        p = torch.stack([pooled.get(i, nothing) for i in range(self.layers)])
        image_embeds = torch.stack(embeds) if embeds else None
        return {"logits": logits, "hidden": hidden, "router": w, "pooled": p, "image_embeds": image_embeds}

    def forward(self, rows: list[Tensor], router: dict, pooled: dict) -> Tensor:
        """All layers over the whole sequence; empty router and pooled are filled, filled ones are used as they are."""
        x, hidden = torch.stack(rows), []  # [T, dim]
        for i in range(self.layers):
            x = self.skipped_layer(i, x, router, pooled) if i in self.skip else self.kept_layer(i, x, router)
            hidden.append(x)
        return torch.stack(hidden)  # [layers, T, dim]
