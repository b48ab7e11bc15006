"""The fold's algebra in the layers of today's decoders, in float64: an adapter in place, folded into whatever linear layers read its output, and
low-rank are one function. The layers and the adapter in place are written naively here, from the architectures' published code."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eas_export.checkpoint.eas_adapter import block_diagonal
from eas_export.core.configs.adapter import AdapterConfig
from eas_export.networks.adapter import Adapter, fold_factors
from eas_export.networks.fold import fold_linear, pooled_shift, spread, stack_inner, stack_inner_bias, stack_outer

TOKENS, DIM, HEADS, KV_HEADS, HEAD, FFN, RANK, LATENT, EXPERTS = 9, 12, 4, 2, 6, 10, 4, 5, 4
SCALE, TEMPERATURE = 0.7, 3.0
ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu2": lambda x: F.relu(x) ** 2,
}
FORMS = {
    "Llama": {},
    "biases (Qwen2)": {"bias": True},
    "normalised heads (Qwen3)": {"qk_norm": "head"},
    "normalised projections, norms only behind (OLMo 2)": {"qk_norm": "full", "placement": "behind"},
    "clipped projections (OLMo)": {"clip": 0.5},
    "a window (Mistral)": {"window": 3},
    "no positions, another scale (SmolLM3)": {"rope": 0, "attention_scale": 0.9},
    "fused projections, partial RoPE (Phi-3)": {"qkv": "fused", "ffn": "fused", "rope": 4},
    "norms of 1 + w (Gemma)": {"norm": "offset", "activation": "gelu_tanh"},
    "sandwich norms, softcaps (Gemma 2)": {"norm": "offset", "placement": "sandwich", "softcap": 1.5},
    "sandwich norms, normalised heads (Gemma 3)": {"norm": "offset", "placement": "sandwich", "qk_norm": "head"},
    "sandwich norms, biases (GLM4)": {"placement": "sandwich", "bias": True},
    "multipliers (Granite)": {"multiplier": 0.3, "attention_scale": 0.1},
    "LayerNorm with biases, plain FFN (StarCoder2)": {"norm": "layer", "ffn": "plain", "bias": True},
    "the same, fused (GPT-2)": {"norm": "layer", "ffn": "plain", "bias": True, "qkv": "fused", "rope": 0},
    "plain FFN (Nemotron)": {"norm": "layer", "ffn": "plain", "activation": "relu2", "rope": 2},
    "side by side (Phi-2)": {"placement": "parallel", "norm": "layer", "ffn": "plain", "bias": True},
    "side by side, gated (Cohere)": {"placement": "parallel", "norm": "layer"},
    "experts (Mixtral)": {"ffn": "experts"},
    "experts with sinks and biases (gpt-oss)": {"ffn": "experts", "sinks": True, "bias": True, "window": 4},
    "experts beside a shared one (Qwen2-MoE)": {"ffn": "experts", "shared": True, "bias": True},
    "latent attention (DeepSeek-V3)": {"qkv": "latent", "rope": 2, "ffn": "experts", "shared": True},
    "latent keys and values (DeepSeek-V2-Lite)": {"qkv": "latent", "rope": 2, "q_latent": False},
}
Read = Callable[[str, int], Tensor]  # (name, outputs) -> the output of the linear layer of this name  [T, outputs]


@dataclass
class Layer:
    """out = layer(x, read), where read(name, outputs, n) is a linear layer on the adapter's output, or what has it folded in."""

    skipped: bool
    norm: str = "rms"
    placement: str = "before"
    qkv: str = "apart"
    q_latent: bool = True
    qk_norm: str | None = None
    ffn: str = "gated"
    shared: bool = False
    bias: bool = False
    activation: str = "silu"
    clip: float | None = None
    softcap: float | None = None
    window: int = TOKENS
    sinks: bool = False
    rope: int = HEAD
    attention_scale: float = HEAD**-0.5
    multiplier: float = 1.0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def weight(self, name: str, *shape: int) -> Tensor:
        """Drawn where it is first asked for"""
        if name not in self.weights:
            self.weights[name] = torch.randn(shape, dtype=torch.float64) * shape[-1] ** -0.5
        return self.weights[name]

    def weight_and_bias(self, name: str, outputs: int, inputs: int) -> tuple[Tensor, Tensor | None]:
        bias = self.weight(f"{name}.bias", outputs) if self.bias else None
        return self.weight(name, outputs, inputs), bias

    def linear(self, name: str, outputs: int, x: Tensor) -> Tensor:
        return F.linear(x, *self.weight_and_bias(name, outputs, x.shape[-1]))

    def gain(self, name: str, width: int = DIM) -> tuple[Tensor, Tensor]:
        """What a norm multiplies by, and what it adds."""
        weight = self.weight(name, width) + (1 if self.norm == "offset" else 0)
        return weight, self.weight(f"{name}.bias", width) if self.norm == "layer" else torch.zeros_like(weight)

    def normed(self, name: str, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if self.norm == "layer" else x
        weight, bias = self.gain(name, x.shape[-1])
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias

    def before(self, name: str, x: Tensor) -> Tensor:
        return x if self.placement == "behind" else self.normed(name, x)

    def behind(self, name: str, x: Tensor) -> Tensor:
        return self.multiplier * (self.normed(name, x) if self.placement in ("sandwich", "behind") else x)

    def ffn_gain(self) -> tuple[Tensor, Tensor]:
        """G and g0 of a skipped layer: of the norm in front of the FFN, where it has one of its own."""
        alone = self.placement in ("parallel", "behind")
        return (torch.ones(DIM).double(), torch.zeros(DIM).double()) if alone else self.gain("ffn_norm")

    def __call__(self, x: Tensor, read: Callable[[str, int, Tensor], Tensor]) -> Tensor:
        n = self.before("norm", x)  # [T, dim]
        if self.skipped:
            return x + self.behind("post_ffn_norm", self.feed_forward(lambda name, out: read(name, out, n)))
        mixed = self.linear("o", DIM, self.attend(lambda name, out: read(name, out, n)))
        x1 = x + self.behind("post_attention_norm", mixed)
        z = n if self.placement == "parallel" else self.before("ffn_norm", x1)
        return x1 + self.behind("post_ffn_norm", self.feed_forward(lambda name, out: self.linear(name, out, z)))

    def heads(self, read: Read) -> list[Tensor]:
        """q, k, v, heads side by side."""
        widths = [HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD]
        if self.qkv == "fused":
            return list(read("qkv", sum(widths)).split(widths, -1))
        if self.qkv == "apart":
            return [read(name, width) for name, width in zip("qkv", widths)]
        q = self.linear("q_b", widths[0], self.normed("q_a_norm", read("q_a", LATENT))) if self.q_latent else None
        latent, rotated = read("kv_a", LATENT + HEAD // 2).split(
            [LATENT, HEAD // 2], -1
        )  # one part of all keys is shared
        k, v = self.linear("kv_b", 2 * widths[1], self.normed("kv_a_norm", latent)).chunk(2, -1)
        k = k.unflatten(-1, (KV_HEADS, HEAD)).clone()
        k[..., : HEAD // 2] = rotated[:, None]
        return [read("q", widths[0]) if q is None else q, k.flatten(-2), v]

    def attend(self, read: Read) -> Tensor:
        q, k, v = (t if self.clip is None else t.clamp(-self.clip, self.clip) for t in self.heads(read))
        if self.qk_norm == "full":
            q, k = self.normed("q_norm", q), self.normed("k_norm", k)
        q, k, v = (t.unflatten(-1, (-1, HEAD)) for t in (q, k, v))
        if self.qk_norm == "head":
            q, k = self.normed("q_norm", q), self.normed("k_norm", k)
        q, k = self.rotate(q), self.rotate(k)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * self.attention_scale
        scores = scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)
        back = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
        scores = scores.masked_fill((back < 0) | (back >= self.window), -torch.inf)
        if self.sinks:
            sink = self.weight("sinks", HEADS)[:, None, None].expand(HEADS, TOKENS, 1)
            scores = torch.cat([scores, sink], -1)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1)[..., :TOKENS], v).flatten(1)

    def rotate(self, x: Tensor) -> Tensor:
        """The first `rope` numbers of each head, half-split."""
        half = self.rope // 2
        angles = torch.arange(TOKENS)[:, None, None] * 10.0 ** -torch.arange(half).double()
        first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
        turned = (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
        return torch.cat([*turned, rest], -1)

    def gated(self, read: Read, name: str = "") -> Tensor:
        act = ACTIVATIONS[self.activation]
        return self.linear(f"down{name}", DIM, act(read(f"gate{name}", FFN)) * read(f"up{name}", FFN))

    def feed_forward(self, read: Read) -> Tensor:
        if self.ffn == "gated":
            return self.gated(read)
        if self.ffn == "fused":
            parts = dict(zip(("gate", "up"), read("gate_up", 2 * FFN).chunk(2, -1)))
            return self.gated(lambda name, _: parts[name])
        if self.ffn == "plain":
            return self.linear("down", DIM, ACTIVATIONS[self.activation](read("fc1", FFN)))
        scores = read("router", EXPERTS).softmax(-1)
        chosen = torch.zeros_like(scores).scatter(-1, scores.topk(2).indices, 1.0)
        result = sum(w[:, None] * self.gated(read, f"{i}") for i, w in enumerate((scores * chosen).T))
        return result + read("shared_gate", 1).sigmoid() * self.gated(read, "_shared") if self.shared else result


class Pia:
    """A random adapter: in place, and in the form in which the product stores it."""

    def __init__(self, skipped: bool) -> None:
        shapes = {"A": (RANK, DIM), "C": (RANK, DIM), "B": (DIM, RANK // 2), "D": (DIM, RANK // 2), "E": (2, DIM)}
        self.skipped = skipped
        self.weights = {letter: torch.randn(shape, dtype=torch.float64) for letter, shape in shapes.items()}
        self.biases = {letter: torch.randn(rows, dtype=torch.float64) for letter, (rows, _) in shapes.items()}

    def part(self, letter: str, x: Tensor, groups: int = 1) -> Tensor:
        return F.conv1d(x.T, self.weights[letter][:, :, None], self.biases[letter], groups=groups).T

    def state(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """w = softmax((E mean n + e) / t) [2] and p = mean(A n + a) [rank] of the prompt."""
        return (self.part("E", n.mean(0)[None])[0] / TEMPERATURE).softmax(-1), self.part("A", n).mean(0)

    def in_place(self, n: Tensor) -> Tensor:
        """h = A n + a, or 0.5 (p + C n + c);  y = n + s [ w0 (B h + b) + w1 (D h + d) ]."""
        w, p = self.state(n)
        h = 0.5 * (p + self.part("C", n)) if self.skipped else self.part("A", n)
        return n + SCALE * (w[0] * self.part("B", h, groups=2) + w[1] * self.part("D", h, groups=2))

    def stored(self) -> Adapter:
        adapter = Adapter(DIM, AdapterConfig(rank=RANK, scale=SCALE, temperature=TEMPERATURE)).double()
        b, d = (block_diagonal(self.weights[letter][:, :, None]) for letter in "BD")
        inner, factor = ("C", 0.5) if self.skipped else ("A", 1.0)
        with torch.no_grad():
            adapter.down.weight.copy_(stack_inner(factor * self.weights[inner]))
            adapter.down.bias.copy_(stack_inner_bias(factor * self.biases[inner]))
            adapter.up.copy_(stack_outer(b, self.biases["B"], d, self.biases["D"], SCALE))
        return adapter


@pytest.mark.parametrize("skipped", [False, True], ids=["kept", "skipped"])
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_an_adapter_in_place_is_the_folded_one_and_the_low_rank_one(form, skipped):
    torch.manual_seed(len(form))
    layer, pia = Layer(skipped, **FORMS[form]), Pia(skipped)
    x, adapter = torch.randn(TOKENS, DIM, dtype=torch.float64), pia.stored()
    gain, shift = layer.ffn_gain() if skipped else (torch.ones(DIM).double(), torch.zeros(DIM).double())  # G, g0

    def in_place(name: str, outputs: int, n: Tensor) -> Tensor:
        return layer.linear(name, outputs, pia.in_place(n) * gain + shift)

    def without(name: str, outputs: int, n: Tensor) -> Tensor:
        return layer.linear(name, outputs, n * gain + shift)

    def with_gain(name: str, outputs: int) -> tuple[Tensor, Tensor]:
        """W G and W g0 + b"""
        weight, bias = layer.weight_and_bias(name, outputs, DIM)
        return weight * gain, weight @ shift + (0 if bias is None else bias)

    def down_bias(n: Tensor) -> Tensor:
        return adapter.down.bias + pooled_shift(pia.state(n)[1]) if skipped else adapter.down.bias

    def folded(name: str, outputs: int, n: Tensor) -> Tensor:
        weight, bias = with_gain(name, outputs)
        return F.linear(n, *fold_linear(weight, *fold_factors(adapter, pia.state(n)[0], down_bias(n)), bias))

    def lowrank(name: str, outputs: int, n: Tensor) -> Tensor:
        v = spread(pia.state(n)[0], adapter.width)
        y = adapter(n, *(each.expand(TOKENS, -1) for each in (v, down_bias(n))))
        return F.linear(y, *with_gain(name, outputs))

    want = layer(x, in_place)
    added = (want - x).abs().max()
    assert (layer(x, without) - want).abs().max() > 1e-2 * added  # the adapter matters
    # a factor of what layers add goes into the weights behind
    scaled = {name: t * layer.multiplier for name, t in layer.weights.items() if name.startswith(("o", "down"))}
    product = replace(layer, multiplier=1.0, weights=layer.weights | scaled)
    for way in (folded, lowrank):
        assert (product(x, way) - want).abs().max() < 1e-12 * added
