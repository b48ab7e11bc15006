"""The reference: the network with its adapters in place, in float32, with one block's weights in memory at a time.

Prompts and the tokens fed after them go through each block together, once (networks/decoder/teacher_forcing.py).
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from ..core.configs.decoder import ModelConfig
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..generation.generate import Generation
from ..networks.decoder.fold import fold_layer
from ..networks.decoder.prefill import join_state, start_reading
from ..networks.decoder.prompts import Prompts
from ..networks.decoder.streaming import StreamedNetwork
from ..networks.decoder.teacher_forcing import force_tokens
from ..networks.network import Readers
from .adapter_modes import AdapterMode, unfolded

MOST_TOKENS = 2048  # go through the network together
A_PASS = 256  # tokens that cost about as much as reading the weights once more, which are in memory block by block


class Reference:
    """parameters: store name -> reader of a float32 tensor; those that are not the network's are ignored"""

    def __init__(self, config: ModelConfig, plan: SkipPlan, limits: Limits, parameters: Readers):
        self.config, self.plan = config, plan
        self.network = StreamedNetwork(config, plan, limits, parameters)

    def read(
        self,
        prompts: list[Prompts],
        forced: list[Tensor],
        on_layer: Callable[[int], None] = lambda count: None,
        mode: AdapterMode = unfolded,
        on_block: Callable[[int, int, Tensor], None] = lambda prompt, layer, x: None,
    ) -> list[Generation]:
        """One generation per prompt, each of one row: the logits after it and after each of its forced tokens [steps, 1].

        on_layer  called with 1 after each layer
        mode      how adapters are applied to the forced tokens
        on_block  called with a prompt's number, a layer's, and the layer's output at the prompt's positions [prefix + S, dim]
        """
        results: dict[int, Generation] = {}
        for group in groups(prompts, forced):

            def see(row: int, layer: int, x: Tensor, group: list[int] = group) -> None:
                on_block(group[row], layer, x)

            mine = [prompts[i] for i in group], [forced[i] for i in group]
            results |= zip(group, self._read(*mine, on_layer, mode, see))
        return [results[i] for i in range(len(prompts))]

    @torch.no_grad()
    def fold(self, layer: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The folded weights and biases of one layer for one prompt's state, in float32 (see networks/decoder/fold.py)."""
        block = self.network.layers[layer]
        modules = dict(block.named_modules())
        with ExitStack() as loaded:  # only what folds
            for part in ("adapter", *block.folds):
                if part in modules:
                    loaded.enter_context(self.network.loaded(f"layers.{layer}.{part}", modules[part]))
            bias = block.adapter.down.bias
            if "pooled" in state and layer in self.plan.skipped:
                bias = block.adapter.shifted_bias(state["pooled"][0, self.plan.skipped.index(layer)])
            return fold_layer(layer, block, state["router"][0, layer], bias)

    @torch.no_grad()
    def _read(
        self,
        prompts: list[Prompts],
        forced: list[Tensor],
        on_layer: Callable[[int], None],
        mode: AdapterMode,
        see: Callable[[int, int, Tensor], None],
    ) -> list[Generation]:
        decoder, prefix = self.network.decoder, self.config.prefix
        forced_batch = force_tokens(prompts, [fed[:, 0] for fed in forced], prefix, self.config.first_position)
        pixels, lengths = forced_batch.batch.pixel_values, forced_batch.lengths
        features = None if pixels is None else self.encode_images(pixels)
        inputs = forced_batch.inputs(torch.zeros(1, self.config.dim) if features is None else features)
        with self.network.surroundings():
            x, reading = start_reading(decoder, inputs, forced_batch.position_ids)
            shape = (reading.prompt.batch, reading.prompt.length)
            states = []
            for layer, block in enumerate(decoder.layers):
                x, tokens = reading.block(
                    layer,
                    block,
                    x,
                    lambda *_: None,
                    lambda i, block, tokens: mode(i, block, tokens, forced_batch.is_fed),
                )
                states.append(tokens.state)
                for row, rows in enumerate(x.unflatten(0, shape)):
                    see(row, layer, rows[: prefix + int(lengths[row])])
                on_layer(1)
            x, state = x.unflatten(0, shape), join_state(states)
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

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N * tokens, dim], image by image"""
        with self.network.loaded("vision", self.network.tower) as vision:
            return torch.cat([vision(image[None])[0] for image in pixels.float()])


def groups(prompts: list[Prompts], forced: list[Tensor]) -> list[list[int]]:
    """Which prompts go through the network together, each padded to the longest of its group: the shortest first, until padding would
    cost more than reading the weights once more."""
    lengths = [int(prompt.prompt_lengths) + len(fed) for prompt, fed in zip(prompts, forced)]
    result: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        longer = (
            len(result[-1]) * (lengths[i] - lengths[result[-1][-1]]) if result else 0
        )  # padding that it adds to the others
        if result and longer <= A_PASS and lengths[i] * (len(result[-1]) + 1) <= MOST_TOKENS:
            result[-1].append(i)
        else:
            result.append([i])
    return result
