"""LaVIN-EAS once more, written naively: a second, independent transcription to check the real network against.

Source: the EAS paper "Not All Attention is Needed" and the published LaVIN-EAS files (a Meta-LLaMA checkpoint, an
OpenAI CLIP state dict, an adapter checkpoint). It shares no code with the product and runs eagerly, one prompt at a
time. Semantics are frozen: p (pooled features) and w (router weights) come from the prefill and stay during decode.
There is no KV cache: a decode call runs the whole sequence again under the frozen p and w, and reads its last row.

Letters: S prompt tokens, T positions (S + 1 at the prefill: position 0 is the modality token), h adapter width,
N image tokens, s adapter scale, t router temperature, n the normalised layer input.
"""

import ast
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .files import read_lavin


def rotate(x: Tensor, positions: Sequence[int]) -> Tensor:
    """RoPE with interleaved pairs (0, 1), (2, 3), ... and theta 10000, on x [T, heads, d]."""
    d = x.shape[-1]
    angles = [[position * 10000.0 ** (-i / d) for i in range(0, d, 2)] for position in positions]
    cos, sin = (f(torch.tensor(angles, dtype=x.dtype))[:, None] for f in (torch.cos, torch.sin))  # [T, 1, d/2]
    even, odd = x[..., 0::2], x[..., 1::2]  # [T, heads, d/2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)  # [T, heads, d]


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v, head by head; q, k, v [T, heads, d], allowed [T, T] (query, key)."""
    outputs = []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head].T / math.sqrt(q.shape[-1])  # [T, T]
        outputs.append(scores.masked_fill(~allowed, -math.inf).softmax(-1) @ v[:, head])  # [T, d]
    return torch.cat(outputs, -1)  # [T, heads * d]


class LavinReference:
    """LaVIN-EAS for one prompt, from a folder in the published layout; `skip` defaults to the checkpoint's list."""

    def __init__(
        self,
        folder: str | Path,
        skip: Sequence[int] | None = None,
        temperature: float | None = None,
        scale: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        weights, args, params = read_lavin(Path(folder))
        self.weights = {name: value.to(dtype) for name, value in weights.items()}
        self.dtype, self.layers, self.heads, self.eps = dtype, params["n_layers"], params["n_heads"], params["norm_eps"]
        self.clip_blocks = sum(name.startswith("visual.") and name.endswith(".ln_1.weight") for name in weights)
        self.skip = set(ast.literal_eval(args.skip_list) if skip is None else skip)
        self.temperature = args.temperature if temperature is None else temperature
        self.scale = args.adapter_scale if scale is None else scale

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-5)

    def rms_norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt() * self.weights[f"{name}.weight"]

    def conv(self, name: str, x: Tensor) -> Tensor:
        """A 1x1 convolution over the tokens of x [T, in]: B and D have two groups, A and C have one."""
        groups = 2 if name.endswith(("conv_B", "conv_D")) else 1
        return F.conv1d(x.T[None], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], groups=groups)[0].T

    def route(self, name: str, n: Tensor) -> Tensor:
        """Router (Eq. 6): w = softmax((E mean n + e) / t), the mean over positions 1.. (position 0 excluded)."""
        return torch.softmax(self.linear(f"{name}.expert_weights", n[1:].mean(0)) / self.temperature, -1)  # [2]

    def mix(self, name: str, n: Tensor, h: Tensor, w: Tensor) -> Tensor:
        """y = n + s [ w0 (B h + b) + w1 (D h + d) ]."""
        return n + self.scale * (w[0] * self.conv(f"{name}.conv_B", h) + w[1] * self.conv(f"{name}.conv_D", h))

    def adapted(self, name: str, n: Tensor, w: Tensor) -> Tensor:
        """What a kept attention reads: h = A n + a;  y = mix."""
        return self.mix(name, n, self.conv(f"{name}.conv_A", n), w)

    def feed_forward(self, name: str, z: Tensor) -> Tensor:
        """FFN(z) = w2(silu(w1 z) * w3 z)."""
        return self.linear(f"{name}.w2", F.silu(self.linear(f"{name}.w1", z)) * self.linear(f"{name}.w3", z))

    def kept_layer(self, i: int, x: Tensor, positions: list[int], router: dict[int, Tensor]) -> Tensor:
        """x1 = x + Attention(y), y adapted;  out = x1 + FFN(RMSNorm(x1; ffn norm))."""
        name, adapter = f"layers.{i}", f"layers.{i}.adapter_attn"
        n = self.rms_norm(f"{name}.attention_norm", x)  # [T, dim]
        w = router.setdefault(i, self.route(adapter, n))  # frozen: what the prefill stored stays  [2]
        y = self.adapted(adapter, n, w)  # [T, dim]
        q, k, v = (self.linear(f"{name}.attention.w{c}", y).unflatten(-1, (self.heads, -1)) for c in "qkv")
        # Causal; nobody attends to position 0, which attends to itself only.
        allowed = [[0 < key <= query or key == query == 0 for key in range(len(x))] for query in range(len(x))]
        mixed = attend(rotate(q, positions), rotate(k, positions), v, torch.tensor(allowed))  # [T, dim]
        x1 = x + self.linear(f"{name}.attention.wo", mixed)
        return x1 + self.feed_forward(f"{name}.feed_forward", self.rms_norm(f"{name}.ffn_norm", x1))

    def skipped_layer(self, i: int, x: Tensor, router: dict[int, Tensor], pooled: dict[int, Tensor]) -> Tensor:
        """h = 0.5 (p + C n + c);  y = mix;  out = x + FFN(y * ffn_norm.weight): one norm, one residual."""
        name, adapter = f"layers.{i}", f"layers.{i}.replaced_adapter"
        n = self.rms_norm(f"{name}.attention_norm", x)  # [T, dim]
        w = router.setdefault(i, self.route(adapter, n))  # frozen: what the prefill stored stays  [2]
        p = pooled.setdefault(i, self.conv(f"{adapter}.conv_A", n).mean(0))  # Eq. 4: mean(A n + a), ALL positions  [h]
        h = 0.5 * (p + self.conv(f"{adapter}.conv_C", n))  # [T, h]
        y = self.mix(adapter, n, h, w)  # [T, dim]
        return x + self.feed_forward(f"{name}.feed_forward", y * self.weights[f"{name}.ffn_norm.weight"])

    def clip_features(self, image: Tensor) -> Tensor:
        """The CLS token after CLIP blocks 4, 8, ... (no ln_post, no proj): image [3, H, W] -> [n_prompt, width]"""
        kernel = self.weights["visual.conv1.weight"]  # [width, 3, patch, patch]
        patches = F.conv2d(image[None], kernel, stride=kernel.shape[-1])[0].flatten(1).T  # [N - 1, width]
        x = torch.cat([self.weights["visual.class_embedding"][None], patches])  # [N, width]
        x = self.layer_norm("visual.ln_pre", x + self.weights["visual.positional_embedding"])
        feats = []
        for i in range(self.clip_blocks):
            name, adapter = (f"visual.transformer.resblocks.{i}{suffix}" for suffix in ("", ".adapter_attn"))
            n = self.layer_norm(f"{name}.ln_1", x)
            # The kept layer's adapter before attention; router mean over tokens 1.. of this image, same s and t.
            y = self.adapted(adapter, n, self.route(adapter, n))  # [N, width]
            qkv = F.linear(y, self.weights[f"{name}.attn.in_proj_weight"], self.weights[f"{name}.attn.in_proj_bias"])
            q, k, v = (part.unflatten(-1, (-1, 64)) for part in qkv.chunk(3, -1))  # heads = width / 64
            x = x + self.linear(f"{name}.attn.out_proj", attend(q, k, v, torch.ones(len(x), len(x), dtype=torch.bool)))
            z = self.linear(f"{name}.mlp.c_fc", self.layer_norm(f"{name}.ln_2", x))
            x = x + self.linear(f"{name}.mlp.c_proj", z * torch.sigmoid(1.702 * z))  # QuickGELU
            feats.append(x[0])  # [width]
        return torch.stack(feats[3::4])

    def encode_image(self, image: Tensor) -> Tensor:
        """An image's features through Linear - SiLU - Linear: [n_prompt, dim]"""
        return self.linear("adapter_proj.conv_B", F.silu(self.linear("adapter_proj.conv_A", self.clip_features(image))))

    @torch.no_grad()
    def run(self, input_ids: Sequence[int], image: Tensor | None = None, forced_tokens: Sequence[int] = ()) -> dict:
        """Prefill on input_ids (S ints, image placeholder zeros included), then one decode call per forced token.

        Returns logits [steps + 1, vocab] and, of the prefill, hidden [layers, S + 1, dim] after each layer, router
        [layers, 2], pooled [layers, h] (NaN for kept layers), image_embeds [n_prompt, dim]; None for what no layer has,
        and for the images of a text prompt.
        """
        ids = [int(token) for token in input_ids]
        table, image_embeds = self.weights["tok_embeddings.weight"], None
        rows = [self.weights["adapter_modality_embedding.weight"][int(image is not None)], *table[ids]]
        if image is not None:
            image_embeds = self.encode_image(torch.as_tensor(image, dtype=self.dtype))  # [n_prompt, dim]
            zeros = [j for j, token in enumerate(ids) if token == 0]
            for j, feature in zip(zeros[: len(image_embeds)], image_embeds, strict=True):
                rows[1 + j] = feature
        positions = list(range(len(rows)))  # 0 for the modality token, j + 1 for token j
        router, pooled = {}, {}
        hidden = self.forward(rows, positions, router, pooled)  # fills router and pooled
        last = [hidden[-1, -1]]  # of [dim]
        for k, token in enumerate(forced_tokens):
            rows.append(table[int(token)])
            positions.append(len(ids) + k)  # S + k: the first generated token shares the last prompt token's position
            last.append(self.forward(rows, positions, router, pooled)[-1, -1])
        logits = self.linear("output", self.rms_norm("norm", torch.stack(last)))  # [steps + 1, vocab]
        state = {"router": self.stacked(router), "pooled": self.stacked(pooled), "image_embeds": image_embeds}
        return {"logits": logits, "hidden": hidden} | state

    def stacked(self, state: dict[int, Tensor]) -> Tensor | None:
        """[layers, ...], NaN for layers without"""
        nothing = [torch.full_like(value, math.nan) for value in state.values()]
        return torch.stack([state.get(i, nothing[0]) for i in range(self.layers)]) if state else None

    def forward(self, rows: list[Tensor], positions: list[int], router: dict, pooled: dict) -> Tensor:
        """All layers over the whole sequence; empty router and pooled are filled, filled ones are used as they are."""
        x, hidden = torch.stack(rows), []  # [T, dim]
        for i in range(self.layers):
            x = self.skipped_layer(i, x, router, pooled) if i in self.skip else self.kept_layer(i, x, positions, router)
            hidden.append(x)
        return torch.stack(hidden)  # [layers, T, dim]

    @torch.no_grad()
    def fold(self, layer: int, router: Tensor, pooled: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The exact fold: W', b' of q, k, v (kept) or gate, up (skipped), concatenated on dim 0; they read n(x)."""
        name, skipped, weights = f"layers.{layer}", layer in self.skip, self.weights
        adapter = f"{name}.replaced_adapter" if skipped else f"{name}.adapter_attn"
        part = {c: weights.get(f"{adapter}.conv_{c}.weight") for c in "ABCD"}  # A, C [h, dim, 1]; B, D [dim, h/2, 1]
        bias = {c: weights.get(f"{adapter}.conv_{c}.bias") for c in "ABCD"}  # a, c [h]; b, d [dim]
        if skipped:  # (M, m) = (0.5 C, 0.5 (c + p)), G = diag(ffn_norm.weight), W in {w1, w3}
            m_matrix, m = 0.5 * part["C"][:, :, 0], 0.5 * (bias["C"] + pooled)
            g_matrix, names = torch.diag(weights[f"{name}.ffn_norm.weight"]), ["feed_forward.w1", "feed_forward.w3"]
        else:  # (M, m) = (A, a), no G, W in {wq, wk, wv}
            m_matrix, m = part["A"][:, :, 0], bias["A"]
            g_matrix, names = torch.eye(m_matrix.shape[1], dtype=self.dtype), [f"attention.w{c}" for c in "qkv"]
        b_matrix, d_matrix = (torch.block_diag(*part[c][:, :, 0].chunk(2)) for c in "BD")  # two blocks  [dim, h]
        u_matrix = self.scale * (router[0] * b_matrix + router[1] * d_matrix)  # U = s (w0 B + w1 D)
        u = self.scale * (router[0] * bias["B"] + router[1] * bias["D"])  # u = s (w0 b + w1 d)  [dim]
        r_matrix = torch.eye(len(u), dtype=self.dtype) + u_matrix @ m_matrix  # R = I + U M
        beta = u_matrix @ m + u  # beta = U m + u
        products = [weights[f"{name}.{key}.weight"] @ g_matrix for key in names]  # W G
        return torch.cat([wg @ r_matrix for wg in products]), torch.cat([wg @ beta for wg in products])  # W', b'
