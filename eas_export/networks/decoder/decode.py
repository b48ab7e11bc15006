"""decode: one new token per row, and the caches -> its logits, and the caches with the new token

Inputs   input_ids [B, 1] · position_ids [B, 1] · cache_lengths [B] (the slot to write) · past_key_values.N.key/value
         and the prompt's adapters, either as folded weights (`--fold weights`: the fold graph's outputs, B = 1, or those of the prompts'
         modality) or as the fold state (`--fold lowrank`, any B); neither without adapters
Outputs  logits [B, vocab] float32 · present.N.key/value

All forms share one loop over the blocks; they differ in how the linear layers after an adapter are applied.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...core.configs.decoder import ModelConfig
from ...core.graph_spec import GraphSpec, TensorSpec
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import Precision
from .. import ops
from ..contract import Graph
from ..recordable import within
from .blocks import Block, KeptBlock
from .fold_state import shifted_biases, spread_routers
from .folded import read_folded
from .modules import Decoder
from .specs import cache_aliases, cache_specs, dims_of, fold_state_specs, folded_parameters, folded_specs, is_of_a_set

# (layer, block, n [B, dim]) -> the outputs of the linear layers after the block's adapter: q, k, v or gate, up
Project = Callable[[int, Block, Tensor], tuple[Tensor, ...]]


class FoldedDecodeGraph(nn.Module):
    """Decoding with weights into which adapters are folded."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return decode_step(self.network.decoder, inputs, read_folded(inputs))


class UnfoldedDecodeGraph(nn.Module):
    """Decoding with unfolded adapters, their router weights and pooled features frozen at the prompt's.

    Two products and a multiplication per layer; the fold state is converted once for all layers.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        decoder: Decoder = self.network.decoder
        spreads, biases = spread_routers(decoder, inputs["router"]), shifted_biases(decoder, inputs.get("pooled"))
        return decode_step(decoder, inputs, through_adapters(spreads, biases))


class PlainDecodeGraph(nn.Module):
    """Decoding without adapters."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return decode_step(self.network.decoder, inputs, without_adapters)


def without_adapters(layer: int, block: Block, n: Tensor) -> tuple[Tensor, ...]:
    return block.project(n)


def through_adapters(spreads: Sequence[Tensor] | Mapping[int, Tensor], biases: Mapping[int, Tensor]) -> Project:
    """Project with unfolded adapters: each layer's v [B, width] and, in a skipped layer, its down's bias [B, width]."""

    def project(layer: int, block: Block, n: Tensor) -> tuple[Tensor, ...]:
        return block.project(block.adapter(n, spreads[layer], biases.get(layer)))

    return project


def decode_step(decoder: Decoder, inputs: dict[str, Tensor], project: Project) -> dict[str, Tensor]:
    """One step through all blocks; `project` applies the linear layers after a block's adapter."""
    x = decoder.embedding(inputs["input_ids"].flatten())  # [B, dim]
    outputs: dict[str, Tensor] = {}
    masks = window_masks(decoder, inputs)
    for i, block in enumerate(decoder.layers):
        with within(f"layers.{i}"):
            x = decode_block(decoder, i, block, x, inputs, masks, project, outputs)
    return {"logits": decoder.logits(x)} | outputs


def window_masks(decoder: Decoder, inputs: dict[str, Tensor]) -> dict[int, Tensor]:
    """Window -> the slots within it [B, 1, 1, T] bool, for layers that have one."""
    slots, masks = inputs["cache_lengths"][:, None], {}  # [B, 1]
    for window, layer in {window: layer for layer, window in decoder.windows.items()}.items():
        places = torch.arange(inputs[f"past_key_values.{layer}.key"].shape[2], device=slots.device)  # [T]
        masks[window] = ((places < slots + 1) & (places >= slots - (window - 1)))[:, None, None]
    return masks


def decode_block(
    decoder: Decoder,
    layer: int,
    block: Block,
    x: Tensor,
    inputs: dict[str, Tensor],
    masks: Mapping[int, Tensor],
    project: Project,
    outputs: dict[str, Tensor],
) -> Tensor:
    """One step through one block: x [B, dim] -> the same. A kept block's caches, with the new token's key and value, go into `outputs`.

    masks  from `window_masks`
    """
    projected = project(layer, block, block.norm(x))
    if not isinstance(block, KeptBlock):
        return block.finish(x, *projected)
    slots, position_ids = inputs["cache_lengths"], inputs["position_ids"]  # [B], [B, 1]
    head_dim = decoder.config.head_dim
    q, k, v = (part.unflatten(-1, (-1, 1, head_dim)) for part in projected)  # [B, heads or kv_heads, 1, head_dim]
    q, k = decoder.encode_positions(layer, q, k, position_ids)
    keys = ops.scatter_cache(inputs[f"past_key_values.{layer}.key"], k, slots)  # [B, kv_heads, T, head_dim]
    values = ops.scatter_cache(inputs[f"past_key_values.{layer}.value"], v, slots)
    outputs[f"present.{layer}.key"], outputs[f"present.{layer}.value"] = keys, values
    window = decoder.windows.get(layer)
    scores = decoder.scores | ({"mask": masks[window]} if window else {})
    return block.finish(x, ops.attend_cached(q, keys, values, slots + 1, **scores).flatten(1))


def folded_decode_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    rows = "B" if config.router == "folded" else 1
    return _spec(config, plan, precision, limits, rows, folded_specs(config, plan, precision))


def unfolded_decode_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    return _spec(config, plan, precision, limits, "B", fold_state_specs(config, plan, "B"))


def _spec(
    config: ModelConfig,
    plan: SkipPlan,
    precision: Precision,
    limits: Limits,
    batch: int | str,
    adapters: tuple[TensorSpec, ...],
) -> GraphSpec:
    dims = dims_of(config, limits)
    return GraphSpec(
        name="decode",
        dims={name: dims[name] for name in (("B",) if batch == "B" else ()) + (("T",) if plan.kept else ())},
        inputs=(
            TensorSpec(name="input_ids", dtype="int64", shape=(batch, 1)),
            TensorSpec(name="position_ids", dtype="int64", shape=(batch, 1)),
            TensorSpec(name="cache_lengths", dtype="int64", shape=(batch,)),
            *adapters,
            *cache_specs(config, plan, precision, batch, "past_key_values"),
        ),
        outputs=(
            TensorSpec(name="logits", dtype="float32", shape=(batch, config.vocab_size)),
            *cache_specs(config, plan, precision, batch, "present"),
        ),
        aliases=cache_aliases(plan),
    )


def folded_decode_reads(plan: SkipPlan, name: str) -> bool:
    return unfolded_decode_reads(plan, name) and name not in folded_parameters(plan) and ".adapter." not in name


def unfolded_decode_reads(plan: SkipPlan, name: str) -> bool:
    """All parameters except those that only a prompt needs."""
    only_prompt = name.startswith(("vision.", "modality.")) or ".router." in name or ".pool." in name
    return not only_prompt and not is_of_a_set(name)


FOLDED_DECODE = Graph(FoldedDecodeGraph, folded_decode_spec, folded_decode_reads)
UNFOLDED_DECODE = Graph(UnfoldedDecodeGraph, unfolded_decode_spec, unfolded_decode_reads)
PLAIN_DECODE = Graph(PlainDecodeGraph, unfolded_decode_spec, unfolded_decode_reads)
