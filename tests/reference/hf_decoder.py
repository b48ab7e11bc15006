"""Text decoders of Hugging Face with PIA adapters in place, written naively: transformers' own model, and around its layers the method.

Source: the EAS paper "Not All Attention is Needed" and the keys of the published LLaVA-EAS files; all that is an architecture's own is left to
transformers. It shares no code with the product and runs eagerly, one prompt at a time. Semantics are frozen: p (pooled features) and w (router
weights) come from the prompt. There is no KV cache: the prompt and the tokens fed after it go through the model at once.

Letters: T positions, h adapter width, s adapter scale, t router temperature, n the normalised layer input.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import read_folder


class HfReference:
    """`skip` defaults to the layers that have a replaced_adapter; a layer without any adapter is left as it is."""

    def __init__(
        self, folder: str | Path, skip: Sequence[int] | None = None, temperature: float = 10.0, scale: float = 1.0
    ) -> None:
        from transformers import AutoModelForCausalLM

        self.weights = {name: tensor.float() for name, tensor in read_folder(Path(folder)).items()}
        load = (
            AutoModelForCausalLM.from_pretrained
        )  # which leaves adapters out, and attentions that are not there as they come
        self.model = load(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.temperature, self.scale = temperature, scale
        own = {int(name.split(".")[2]) for name in self.weights if ".replaced_adapter." in name}
        self.skip = own if skip is None else set(skip)
        self.prompt, self.router, self.pooled = 0, {}, {}  # tokens of the prompt; by layer
        for i, layer in enumerate(self.model.model.layers):
            if i in self.skip:
                del layer.self_attn
                layer.forward = lambda x, i=i, layer=layer, **others: self.skipped_layer(i, layer, x)
            elif f"model.layers.{i}.adapter_attn.conv_A.weight" in self.weights:
                # what the norm gives is read by q, k and v alone
                layer.input_layernorm.register_forward_hook(lambda norm, x, n, i=i: self.adapted(i, n))

    def conv(self, name: str, x: Tensor) -> Tensor:
        """A 1x1 convolution over the tokens of x [1, T, in]: B and D have two groups, A and C have one."""
        groups = 2 if name.endswith(("conv_B", "conv_D")) else 1
        return F.conv1d(x.mT, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], groups=groups).mT

    def mix(self, i: int, name: str, n: Tensor, h: Tensor) -> Tensor:
        """w = softmax((E mean n + e) / t), the mean over the prompt;  y = n + s [ w0 (B h + b) + w1 (D h + d) ]."""
        weight, bias = (self.weights[f"{name}.expert_weights.{part}"] for part in ("weight", "bias"))
        w = torch.softmax(F.linear(n[0, : self.prompt].mean(0), weight, bias) / self.temperature, -1)  # [2]
        self.router[i] = w
        return n + self.scale * (w[0] * self.conv(f"{name}.conv_B", h) + w[1] * self.conv(f"{name}.conv_D", h))

    def adapted(self, i: int, n: Tensor) -> Tensor:
        """What a kept attention reads: h = A n + a;  y = mix."""
        name = f"model.layers.{i}.adapter_attn"
        return self.mix(i, name, n, self.conv(f"{name}.conv_A", n))

    def skipped_layer(self, i: int, layer: nn.Module, x: Tensor) -> Tensor:
        """h = 0.5 (p + C n + c);  y = mix;  out = x + m post(FFN(G y)): one norm in front, one residual.

        G is the weight of the norm in front of the FFN, post the norm behind it and m a factor, where the architecture has them.
        """
        name, parts = f"model.layers.{i}.replaced_adapter", dict(layer.named_children())
        n = layer.input_layernorm(x)  # [1, T, dim]
        p = self.conv(f"{name}.conv_A", n[:, : self.prompt]).mean(1)  # Eq. 4: mean(A n + a) over the prompt  [1, h]
        self.pooled[i] = p[0]
        y = self.mix(i, name, n, 0.5 * (p[:, None] + self.conv(f"{name}.conv_C", n)))
        added = layer.mlp(y * self.gain(parts.get("pre_feedforward_layernorm", layer.post_attention_layernorm)))
        added = parts.get("post_feedforward_layernorm", nn.Identity())(added)
        return x + added * getattr(self.model.config, "residual_multiplier", 1.0)

    def gain(self, norm: nn.Module) -> Tensor:
        """What a norm multiplies by, be it its weight or 1 + it: what it makes of ones, whose mean square is 1  [dim]"""
        return norm(torch.ones_like(norm.weight)) * (1 + self.model.config.rms_norm_eps) ** 0.5

    @torch.no_grad()
    def run(self, input_ids: Sequence[int], forced_tokens: Sequence[int] = ()) -> dict[str, Tensor]:
        """logits [steps + 1, vocab] of the prompt's last token and of each forced one; router [layers, 2] and pooled [skipped, h]."""
        self.prompt = len(input_ids)
        whole = torch.tensor([[*input_ids, *forced_tokens]])
        logits = self.model(input_ids=whole, use_cache=False).logits[0, self.prompt - 1 :]
        states = [[state[i] for i in sorted(state)] for state in (self.router, self.pooled)]
        return {"logits": logits} | {name: torch.stack(s) for name, s in zip(("router", "pooled"), states) if s}
