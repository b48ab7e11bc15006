"""The systems that EAS is compared with, written naively beside EAS's own transcriptions: what each does otherwise, and no more.

Source: the published code of LaVIN, DAS and METER, and its files. It shares no code with the product and runs as EAS's do: eagerly,
one prompt or sample at a time, unfolded, without a KV cache. Letters as in lavin.py and meter.py.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .files import merge_lora, read_meter
from .lavin import LavinReference
from .meter import MeterReference


class LavinRouterReference(LavinReference):
    """LaVIN: every attention is kept, and the router reads one token instead of a mean."""

    def __init__(self, folder: str | Path, skip: Sequence[int] = (), **options: object) -> None:
        super().__init__(folder, skip, **options)

    def route(self, name: str, n: Tensor) -> Tensor:
        """w = softmax((E n + e) / t): [2] of the modality token, position 0; in the tower of each token by itself [2, N, 1]."""
        tower = name.startswith("visual.")
        w = torch.softmax(self.linear(f"{name}.expert_weights", n if tower else n[0]) / self.temperature, -1)
        return w.T[..., None] if tower else w


class LavinDasReference(LavinRouterReference):
    """LaVIN-DAS: a skipped layer loses attention and FFN; `skip` defaults to the layers that have no adapter_attn.

    Search-stage files have one in every layer: the list must be given.
    """

    def __init__(self, folder: str | Path, skip: Sequence[int] | None = None, **options: object) -> None:
        super().__init__(folder, skip or (), **options)
        if skip is None:
            self.skip = {i for i in range(self.layers) if f"layers.{i}.adapter_attn.conv_A.weight" not in self.weights}
            assert self.skip, "a file of the search stage does not tell what is skipped"

    def skipped_layer(self, i: int, x: Tensor, router: dict[int, Tensor], pooled: dict[int, Tensor]) -> Tensor:
        """h = A n + a;  out = x + s [ w0 (B h + b) + w1 (D h + d) ]: no FFN, nothing pooled, n itself is not added."""
        adapter = f"layers.{i}.replaced_adapter"
        n = self.rms_norm(f"layers.{i}.attention_norm", x)  # [T, dim]
        w = router.setdefault(i, self.route(adapter, n))
        return self.mix(adapter, x, self.conv(f"{adapter}.conv_A", n), w)


class LavinLoraReference(LavinReference):
    """LaVIN-LoRA: W + 16/r B A wherever the file has A and B, and no adapters."""

    def __init__(self, folder: str | Path, **options: object) -> None:
        super().__init__(folder, (), **options)
        self.weights = merge_lora(self.weights)

    def route(self, name: str, n: Tensor) -> Tensor:
        return n.new_empty(0)  # there is no router

    def adapted(self, name: str, n: Tensor, w: Tensor) -> Tensor:
        return n


class MeterFullReference(MeterReference):
    """METER with all or its head trained: no adapters, and text position 0 stays RoBERTa's."""

    def __init__(self, file: Path, text_heads: int) -> None:
        super().__init__(file, [], text_heads)

    def adapted(self, name: str, x: Tensor) -> Tensor:
        return x

    def classifier_token(self, x: Tensor) -> Tensor:
        return x


class MeterDasReference(MeterReference):
    """METER-DAS: adapters with a norm and a ReLU; a skipped layer of a stream is one of them, wider. Sites: the text layers, then the image's.

    skip    defaults to the file's: the top of das_gate where the search left one, else hyper_parameters.config.skip_module
    """

    def __init__(self, file: Path, text_heads: int, skip: Sequence[int] | None = None) -> None:
        super().__init__(file, [], text_heads)
        gate, count = self.weights["das_gate"], round(self.weights["skip_num"].item())
        searched, trained = gate.argsort(descending=True)[:count].tolist(), read_meter(file)[1]["skip_module"]
        self.skip = set((searched if gate.any() else trained) if skip is None else skip)

    def adapter(self, name: str, x: Tensor) -> Tensor:
        """P(x) = up(relu(down(LN(x))))"""
        normed = self.norm(f"{name}.adapter_layer_norm_before", x)
        return self.linear(f"{name}.up_proj", F.relu(self.linear(f"{name}.down_proj", normed)))

    def layer(self, stream: str, i: int, x: Tensor, other: Tensor, mask: Tensor, other_mask: Tensor) -> Tensor:
        """a = LN(x + self + P1(x)), z = LN(a + cross + P2(a)), out = LN(z + FFN(z)) + P3(z); skipped: out = x + P(x)"""
        if (i if stream == "text" else self.layers + i) in self.skip:
            return x + self.adapter(f"adapter_list_{'l' if stream == 'text' else 'v'}.{i}.0", x)
        name = f"cross_modal_{stream}_layers.{i}"
        mixed = self.attention(f"{name}.attention", x, x, self.heads, mask)
        mixed = mixed + self.adapter(f"{name}.attention.output.adapter", x)
        a = self.norm(f"{name}.attention.output.LayerNorm", x + mixed, 1e-12)
        mixed = self.attention(f"{name}.crossattention", a, other, self.heads, other_mask)
        mixed = mixed + self.adapter(f"{name}.crossattention.output.adapter", a)
        z = self.norm(f"{name}.crossattention.output.LayerNorm", a + mixed, 1e-12)
        inner = self.linear(f"{name}.output.dense", F.gelu(self.linear(f"{name}.intermediate.dense", z)))
        return self.norm(f"{name}.output.LayerNorm", z + inner, 1e-12) + self.adapter(f"{name}.adapter", z)
