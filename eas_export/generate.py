"""Prompt in, logits and tokens out: prefill, fold, decode over any backend's sessions. verify, bench and run all use it."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends.runtime import Runtime, Tensors
from .errors import UserError


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, right-padded.

    input_ids       [B, S] int64; image placeholders included
    prompt_lengths  [B] int64
    image_index     [B, S] int64: -1 for text, else the feature's row among all images' features in a row
    pixel_values    [N, 3, H, W] float32, or None without images
    """

    input_ids: Tensor
    prompt_lengths: Tensor
    image_index: Tensor
    pixel_values: Tensor | None = None


@dataclass
class Generation:
    """What a run gave.

    logits          [steps + 1, B, vocab] float32: after the prefill, then after each fed token
    tokens          [steps + 1, B] int64: argmax of the logits, whether or not that token was fed next
    image_features  [N * tokens, dim], or None without images
    state           router [B, layers, 2] and pooled [B, skipped, rank] float32
    folded          the folded weights, where the runtime folds
    """

    logits: Tensor
    tokens: Tensor
    image_features: Tensor | None
    state: Tensors
    folded: Tensors = field(default_factory=dict)


def generate(runtime: Runtime, prompts: Prompts, steps: int = 0, forced: Tensor | None = None) -> Generation:
    """Run prompts for exactly `steps` decode steps, greedily, or feed `forced` [steps, B] int64 instead of the argmax.

    Raises UserError for prompts beyond the runtime's limits and for logits that are not finite.
    """
    steps = len(forced) if forced is not None else steps
    check_limits(runtime, prompts, steps)
    features = encode_images(runtime, prompts)
    caches = empty_caches(runtime, len(prompts.input_ids), slots=prompts.input_ids.shape[1] + steps)
    after_prompt = prefill(runtime, prompts, features, caches)
    state = {name: after_prompt[name] for name in ("router", "pooled") if name in after_prompt}
    adapters = runtime.run("fold", state) if "fold" in runtime.sessions else state

    logits = [_finite(after_prompt["logits"], 0)]
    for step in range(steps):
        token = forced[step] if forced is not None else logits[-1].argmax(-1)  # [B]
        logits.append(_finite(decode(runtime, token, prompts.prompt_lengths + step, caches, adapters), step + 1))
    stacked = torch.stack(logits)
    seen = None if prompts.pixel_values is None else features
    return Generation(stacked, stacked.argmax(-1), seen, state, adapters if "fold" in runtime.sessions else {})


def join_prompts(batches: list[Prompts]) -> Prompts:
    """Several batches as one, padded on the right; images keep their order."""
    length = max(batch.input_ids.shape[1] for batch in batches)
    images = [batch.pixel_values for batch in batches if batch.pixel_values is not None]
    indices, features = [], 0
    for batch in batches:
        indices.append(
            F.pad(
                batch.image_index + features * (batch.image_index >= 0),
                (0, length - batch.image_index.shape[1]),
                value=-1,
            )
        )
        features += int((batch.image_index >= 0).sum())
    return Prompts(
        torch.cat([F.pad(batch.input_ids, (0, length - batch.input_ids.shape[1])) for batch in batches]),
        torch.cat([batch.prompt_lengths for batch in batches]),
        torch.cat(indices),
        torch.cat(images) if images else None,
    )


def join_generations(parts: list[Generation]) -> Generation:
    """Several batches' results as those of one batch of all their rows; folded weights belong to one prompt and are left out."""
    features = [part.image_features for part in parts if part.image_features is not None]
    return Generation(
        torch.cat([part.logits for part in parts], 1),
        torch.cat([part.tokens for part in parts], 1),
        torch.cat(features) if features else None,
        {name: torch.cat([part.state[name] for part in parts]) for name in parts[0].state},
    )


def encode_images(runtime: Runtime, prompts: Prompts) -> Tensor:
    """Image features [N * tokens, dim]; one row of zeros where there is no image."""
    spec = runtime.sessions["vision"].spec
    if prompts.pixel_values is None:
        return torch.zeros(1, runtime.config.dim, dtype=getattr(torch, spec.outputs[0].dtype))
    pixels = prompts.pixel_values.to(getattr(torch, spec.inputs[0].dtype))
    return runtime.run("vision", {"pixel_values": pixels})["image_features"].flatten(0, 1)


def empty_caches(runtime: Runtime, batch: int, slots: int) -> Tensors:
    """Zeroed key and value caches of `slots` tokens: NaN in a slot that was never written would poison masked results."""
    spec = runtime.sessions["decode"].spec
    sizes = {"B": batch, "T": slots}
    caches = [t for t in spec.inputs if t.name in spec.aliases.values()]
    return {t.name: torch.zeros((batch, *t.sizes(sizes)[1:]), dtype=getattr(torch, t.dtype)) for t in caches}


def prefill(runtime: Runtime, prompts: Prompts, features: Tensor, caches: Tensors) -> Tensors:
    """logits and the fold state; fills the caches."""
    inputs = {
        "input_ids": prompts.input_ids,
        "image_features": features,
        "image_index": prompts.image_index,
        "prompt_lengths": prompts.prompt_lengths,
    }
    return runtime.run("prefill", inputs | caches)


def decode(runtime: Runtime, token: Tensor, lengths: Tensor, caches: Tensors, adapters: Tensors) -> Tensor:
    """One step: token [B], lengths [B] tokens so far (the new token's slot and position) -> logits [B, vocab]"""
    inputs = {
        "input_ids": token[:, None],
        "position_ids": lengths[:, None],
        "cache_lengths": lengths,
    }
    return runtime.run("decode", inputs | adapters | caches)["logits"]


def check_limits(runtime: Runtime, prompts: Prompts, steps: int) -> None:
    """Raises UserError where the prompts and their answers do not fit the limits that the graphs were built for."""
    rows, length = prompts.input_ids.shape
    limits, vocabulary = runtime.limits, runtime.config.vocab_size
    if int(prompts.input_ids.min()) < 0 or int(prompts.input_ids.max()) >= vocabulary:
        raise UserError(
            f"token ids reach from {int(prompts.input_ids.min())} to {int(prompts.input_ids.max())}",
            where="input_ids",
            fix=f"use the model's own tokenizer: ids from 0 to {vocabulary - 1}",
        )
    if rows > 1 and "fold" in runtime.sessions:
        raise UserError(
            f"{rows} prompts at once, but folded weights belong to one prompt",
            where="input_ids",
            fix="run one prompt at a time, or build with --fold lowrank",
        )
    for value, limit, name in (
        (rows, limits.max_batch, "max-batch"),
        (length, limits.max_prompt, "max-prompt"),
        (length + steps, limits.max_tokens, "max-tokens"),
    ):
        if value > limit:
            what = {"max-batch": "prompts", "max-prompt": "prompt tokens", "max-tokens": "tokens of prompt and answer"}[
                name
            ]
            raise UserError(
                f"{value} {what}, the bundle takes {limit}",
                where="input_ids",
                fix=f"build with --{name} {value} or give less",
            )


def _finite(logits: Tensor, step: int) -> Tensor:
    if not torch.isfinite(logits).all():
        raise UserError(
            "the logits are not finite", where=f"step {step}", fix="build with --precision fp32, and verify the bundle"
        )
    return logits
