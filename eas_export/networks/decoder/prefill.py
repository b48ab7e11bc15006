"""prefill: a prompt and empty caches -> the last token's logits, filled caches and the fold state

Inputs   input_ids [B, S] · image_features [M, dim] · image_index [B, S] (-1 = text, else a row of image_features); a text-only model
         lacks these two · prompt_lengths [B] (prompts are padded on the right) · past_key_values.N.key/value [B, kv_heads, T, head_dim]
         and, where adapters are folded at build time, the folded weights of the prompts' modality
Outputs  logits [B, vocab] float32 · router [B, layers, 2] float32 · pooled [B, skipped, rank] float32 · present.N.key/value
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.configs.decoder import ModelConfig
from ...core.graph_spec import GraphSpec, TensorSpec
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import Precision
from .. import ops
from ..contract import Graph
from ..recordable import within
from .blocks import Block, KeptBlock, State, Tokens
from .folded import read_folded
from .modules import Decoder
from .routers import Prompt
from .specs import cache_aliases, cache_specs, dims_of, fold_state_specs, folded_specs, is_of_a_set


class PrefillGraph(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        decoder: Decoder = self.network.decoder
        lengths = inputs["prompt_lengths"]  # [B]
        first_slot = torch.zeros_like(lengths)
        outputs: dict[str, Tensor] = {}

        def keep(layer: int, key: Tensor, value: Tensor) -> None:
            for part, update in (("key", key), ("value", value)):
                cache = inputs[f"past_key_values.{layer}.{part}"]
                outputs[f"present.{layer}.{part}"] = ops.scatter_cache(cache, update, first_slot)

        x, reading = start_reading(decoder, inputs)
        apply, states = read_folded(inputs), []

        def project(layer: int, block: Block, tokens: Tokens) -> tuple[Tensor, ...]:
            return apply(layer, block, tokens.n) if apply else block.read(tokens)

        for i, block in enumerate(decoder.layers):
            with within(f"layers.{i}"):
                x, tokens = reading.block(i, block, x, keep, project)
            states.append(tokens.state)
        rows = torch.arange(reading.prompt.batch, device=x.device)
        last = rows * reading.prompt.length + decoder.config.prefix + lengths - 1  # [B]
        return {"logits": decoder.logits(x.index_select(0, last))} | join_state(states) | outputs


# (layer, block, tokens) -> the outputs of the linear layers after the block's adapter: q, k, v or gate, up, each [B*L, out]
Project = Callable[[int, Block, Tokens], tuple[Tensor, ...]]


def project(layer: int, block: Block, tokens: Tokens) -> tuple[Tensor, ...]:
    return block.read(tokens)


@dataclass(frozen=True)
class Reading:
    """The prompts of a prefill, as every block needs them.

    position_ids  [B, L]; L = prefix + S
    masks         window -> where a token attends within it [1, 1, L, L] bool
    """

    decoder: Decoder
    prompt: Prompt
    position_ids: Tensor
    masks: Mapping[int, Tensor]

    def block(
        self,
        layer: int,
        block: Block,
        x: Tensor,
        keep: Callable[[int, Tensor, Tensor], None],
        project: Project = project,
    ) -> tuple[Tensor, Tokens]:
        """x [B*L, dim] -> the block's output [B*L, dim], and its tokens. keep: called with (layer, key, value) of a kept block."""
        tokens = block.adapt(block.norm(x), self.prompt)
        projected = project(layer, block, tokens)
        if not isinstance(block, KeptBlock):
            return block.finish(x, *projected), tokens
        batch, length = self.prompt.batch, self.prompt.length
        prefix, head_dim = self.decoder.config.prefix, self.decoder.config.head_dim
        q, k, values = (_heads(part, batch, length, head_dim) for part in projected)
        q, k = self.decoder.encode_positions(layer, q, k, self.position_ids)
        window = self.decoder.windows.get(layer)
        scores = self.decoder.scores | ({"mask": self.masks[window]} if window else {"causal": True})
        attended = _attend_prompt(q, k, values, prefix, **scores)  # [B, H, L, head_dim]
        keep(layer, k[:, :, prefix:], values[:, :, prefix:])
        return block.finish(x, attended.transpose(1, 2).flatten(2).flatten(0, 1)), tokens


def start_reading(
    decoder: Decoder, inputs: dict[str, Tensor], position_ids: Tensor | None = None
) -> tuple[Tensor, Reading]:
    """x [B*L, dim] before the first block, and the Reading for the blocks. position_ids: by default one after the other.

    Means are over `prompt_lengths` only: tokens after a prompt use its state and do not change it.
    """
    lengths = inputs["prompt_lengths"]  # [B]
    x = _embed(decoder, inputs)  # [B, L, dim]
    batch, length = x.shape[0], x.shape[1]
    prefix = decoder.config.prefix
    positions = torch.arange(length, device=x.device)  # [L]
    if position_ids is None:
        position_ids = (positions + decoder.config.first_position)[None, :].expand(batch, length)
    start, ends = (0, torch.ones_like(lengths)) if decoder.config.router == "modality" else (prefix, lengths + prefix)
    router_mean = _mean_weights(positions, start, ends)
    pooled_mean = _mean_weights(positions, 0, lengths + prefix)
    prompt = Prompt(batch, length, router_mean, pooled_mean, _modality(inputs, lengths))
    masks = {window: _inside(positions, window) for window in sorted({*decoder.windows.values()})}
    return x.flatten(0, 1), Reading(decoder, prompt, position_ids, masks)


def join_state(states: Sequence[State]) -> dict[str, Tensor]:
    """The fold state of all blocks: router [B, layers, 2] and, where blocks are skipped, pooled [B, skipped, rank]; empty without
    adapters."""
    routers = [state.router for state in states if state.router is not None]
    pools = [state.pooled for state in states if state.pooled is not None]
    return {name: torch.stack(parts, 1) for name, parts in (("router", routers), ("pooled", pools)) if parts}


def prefill_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    dims = dims_of(config, limits)
    images = (
        TensorSpec(name="image_features", dtype=precision.dtype, shape=("M", config.dim)),
        TensorSpec(name="image_index", dtype="int64", shape=("B", "S")),
    )
    images = images if config.vision else ()
    return GraphSpec(
        name="prefill",
        dims={name: dims[name] for name in ("B", "S", *(("M",) if images else ()), *(("T",) if plan.kept else ()))},
        inputs=(
            TensorSpec(name="input_ids", dtype="int64", shape=("B", "S")),
            *images,
            TensorSpec(name="prompt_lengths", dtype="int64", shape=("B",)),
            *(folded_specs(config, plan, precision) if config.router == "folded" else ()),
            *cache_specs(config, plan, precision, "B", "past_key_values"),
        ),
        outputs=(
            TensorSpec(name="logits", dtype="float32", shape=("B", config.vocab_size)),
            *fold_state_specs(config, plan, "B"),
            *cache_specs(config, plan, precision, "B", "present"),
        ),
        aliases=cache_aliases(plan),
    )


def prefill_reads(plan: SkipPlan, name: str) -> bool:
    return not name.startswith("vision.") and not is_of_a_set(name)


def _embed(decoder: Decoder, inputs: dict[str, Tensor]) -> Tensor:
    """Token embeddings, image features in place of their placeholders and, if the model has one, the modality token in front: [B, L, dim]"""
    ids = inputs["input_ids"]
    if decoder.config.vision is None:
        return decoder.embedding(ids)
    index, features = inputs["image_index"], inputs["image_features"]
    table = torch.cat([torch.zeros_like(features[:1]), features])  # row 0 for text, row i + 1 for feature i
    x = torch.where((index >= 0)[:, :, None], F.embedding(index + 1, table), decoder.embedding(ids))  # [B, S, dim]
    if not decoder.config.modality_token:
        return x
    return torch.cat([decoder.modality(_modality(inputs, inputs["prompt_lengths"])[:, None]), x], 1)


def _modality(inputs: dict[str, Tensor], lengths: Tensor) -> Tensor:
    """1 for prompts with an image: [B] int64"""
    index = inputs.get("image_index")  # [B, S]
    return torch.zeros_like(lengths) if index is None else (index.amax(1) >= 0).long()


def _mean_weights(positions: Tensor, start: int, ends: Tensor) -> Tensor:
    """Weights of the mean over positions [start, end) of each row: [L], ends [B] -> [B, L] float32"""
    inside = (positions[None, :] >= start) & (positions[None, :] < ends[:, None])
    return inside.float() / (ends - start).float()[:, None]


def _inside(positions: Tensor, window: int) -> Tensor:
    """Whether a token attends to another, at most window - 1 before it: positions [L] -> [1, 1, L, L] bool"""
    own = positions[None, None, :, None]
    return (positions < own + 1) & (positions >= own - (window - 1))


def _heads(x: Tensor, batch: int, length: int, head_dim: int) -> Tensor:
    """[B*L, q_dim or kv_dim] -> [B, heads or kv_heads, L, head_dim]"""
    return x.view(batch, length, -1, head_dim).transpose(1, 2)


def _attend_prompt(q: Tensor, k: Tensor, v: Tensor, prefix: int, **scores: Any) -> Tensor:
    """Causal attention over the prompt. The modality token attends only to itself and no other token attends to it, so its output is its
    own v, and the rest is attention without it. q [B, heads, L, head_dim]; k, v [B, kv_heads, L, head_dim]; scores: arguments of ops.attend -> q's
    shape"""
    attended = ops.attend(q[:, :, prefix:], k[:, :, prefix:], v[:, :, prefix:], **scores)
    return torch.cat([ops.repeat_heads(v[:, :, :prefix], q.shape[1]), attended], 2) if prefix else attended


PREFILL = Graph(PrefillGraph, prefill_spec, prefill_reads)
