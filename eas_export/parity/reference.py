"""The reference: the network with its adapters in place, in float32, with one block's weights in memory at a time.

Prompts and the tokens fed after them go through each block together, once: an adapter's state is its prompt's, so what stands behind a
prompt changes nothing before it, and a step needs no more of its own than causal attention over what came before.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ..config import Limits, ModelConfig
from ..conversation import Prompts, join_prompts
from ..export.fold_graph import fold_layer
from ..export.prefill_graph import read_prompts
from ..families import get_family
from ..generate import Generation
from ..model.network import build_network, load_parameters, parameter_shapes
from ..plan import SkipPlan
from ..precision import PRECISIONS

Readers = Mapping[str, Callable[[], Tensor]]
MOST_TOKENS = 2048  # that go through the network together


class Reference:
    """parameters: store name -> reader of a float32 tensor; more than the network's may be there"""

    def __init__(self, config: ModelConfig, plan: SkipPlan, limits: Limits, parameters: Readers):
        with torch.device("meta"):
            self._network = build_network(config, plan, PRECISIONS["fp32"], limits, get_family(config.family).vision)
        self.config, self.plan, self._parameters = config, plan, parameters
        self._network.decoder.layers = _OneAtATime(self._network.decoder.layers, self._load)

    def read(
        self, prompts: list[Prompts], forced: list[Tensor], on_layer: Callable[[int], None] = lambda count: None
    ) -> list[Generation]:
        """One generation per prompt, each of one row: the logits after it and after each of its forced tokens [steps, 1].
        `on_layer` is told of each layer that is done."""
        self._network.decoder.layers.on_layer = on_layer
        return [one for group in groups(prompts, forced) for one in self._read(prompts[group], forced[group])]

    @torch.no_grad()
    def fold(self, layer: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The folded weights and biases of one layer for one prompt's state, in float32 (see export/fold_graph.py)."""
        block = self._network.decoder.layers[layer]
        with ExitStack() as loaded:  # only what folds
            for part in ("adapter", *block.folds):
                loaded.enter_context(self._loaded(f"layers.{layer}.{part}", block.get_submodule(part)))
            bias = block.adapter.down.bias
            if layer in self.plan.skipped:
                bias = block.adapter.shifted_bias(state["pooled"][0, self.plan.skipped.index(layer)])
            return fold_layer(layer, block, state["router"][0, layer], bias)

    @torch.no_grad()
    def _read(self, prompts: list[Prompts], forced: list[Tensor]) -> list[Generation]:
        decoder = self._network.decoder
        # what is fed stands behind its prompt, where padding would be
        whole = [
            Prompts(
                torch.cat([p.input_ids[:, : int(p.prompt_lengths)], fed.T], 1),
                p.prompt_lengths + len(fed),
                torch.cat([p.image_index[:, : int(p.prompt_lengths)], torch.full_like(fed.T, -1)], 1),
                p.pixel_values,
            )
            for p, fed in zip(prompts, forced)
        ]
        batch = join_prompts(whole)
        lengths = torch.cat([p.prompt_lengths for p in prompts])  # [B]
        features = self._encode_images(batch.pixel_values)
        inputs = {
            "input_ids": batch.input_ids,
            "image_index": batch.image_index,
            "image_features": torch.zeros(1, self.config.dim) if features is None else features,
            "prompt_lengths": lengths,
        }
        slots = torch.arange(batch.input_ids.shape[1])  # [S]
        prefix = self.config.prefix
        positions = torch.where(slots < lengths[:, None], slots + prefix, slots)  # a fed token's position is its slot
        positions = torch.cat([torch.arange(prefix).expand(len(prompts), -1), positions], 1)  # [B, L]
        others = {name: module for name, module in decoder.named_children() if name != "layers"}
        with self._loaded("", nn.ModuleDict(others)):
            x, state = read_prompts(decoder, inputs, lambda *_: None, positions)
            results, feature = [], 0
            for row, (prompt, fed) in enumerate(zip(prompts, forced)):
                last = prefix + int(lengths[row]) - 1
                logits = decoder.logits(x[row, last : last + len(fed) + 1])[:, None]  # [steps + 1, 1, vocab]
                mine = None
                if prompt.pixel_values is not None:
                    count = len(prompt.pixel_values) * self.config.vision.tokens
                    mine, feature = features[feature : feature + count], feature + count
                own = {name: value[row : row + 1] for name, value in state.items()}
                results.append(Generation(logits, logits.argmax(-1), mine, own))
        return results

    def _encode_images(self, pixels: Tensor | None) -> Tensor | None:
        """[N, 3, H, W] -> [N * tokens, dim], image by image"""
        if pixels is None:
            return None
        with self._loaded("vision", self._network.vision):
            return torch.cat([self._network.vision(image[None])[0] for image in pixels.float()])

    def _loaded(self, prefix: str, module: nn.Module) -> "_Loaded":
        dot = f"{prefix}." if prefix else ""
        return _Loaded(module, {name: self._parameters[f"{dot}{name}"] for name in parameter_shapes(module)})

    def _load(self, layer: int, block: nn.Module) -> "_Loaded":
        return self._loaded(f"layers.{layer}", block)


class _Loaded:
    """A module that has its weights inside the block, and only there."""

    def __init__(self, module: nn.Module, readers: Readers):
        self.module, self.readers = module, readers

    def __enter__(self) -> nn.Module:
        return load_parameters(self.module, self.readers)

    def __exit__(self, *_: object) -> None:
        self.module.to_empty(device="meta")


class _OneAtATime(nn.ModuleList):
    """Blocks that have their weights while it is their turn."""

    def __init__(self, blocks: nn.ModuleList, load: Callable[[int, nn.Module], _Loaded]):
        super().__init__(blocks)
        self.load = load
        self.on_layer: Callable[[int], None] = lambda count: None

    def __iter__(self) -> Iterator[nn.Module]:
        for layer, block in enumerate(super().__iter__()):
            with self.load(layer, block):
                yield block
            self.on_layer(1)


def groups(prompts: list[Prompts], forced: list[Tensor]) -> list[slice]:
    """Which prompts go through the network together."""
    lengths = [int(prompt.prompt_lengths) + len(fed) for prompt, fed in zip(prompts, forced)]
    found, first = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or max(lengths[first : end + 1]) * (end + 1 - first) > MOST_TOKENS:
            found.append(slice(first, end))
            first = end
    return found
