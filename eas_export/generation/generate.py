"""Decode a fixed number of steps after prompts and keep all logits, for verify and bench."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..backends.runtime import Runtime, Tensors
from ..networks.decoder.prompts import Prompts
from .conversation import Conversation, too_many


@dataclass
class Generation:
    """The results of a run, all on the CPU.

    logits          [steps + 1, B, vocab] float32: after the prefill, then after each fed token
    tokens          [steps + 1, B] int64: argmax of the logits, whether or not that token was fed next
    image_features, state, folded  see Conversation
    """

    logits: Tensor
    tokens: Tensor
    image_features: Tensor | None
    state: Tensors
    folded: Tensors = field(default_factory=dict)


def generate(runtime: Runtime, prompts: Prompts, steps: int = 0, forced: Tensor | None = None) -> Generation:
    """Run prompts for exactly `steps` decode steps, greedily, or feed `forced` [steps, B] int64 instead of the argmax.

    Raises UserError as Conversation does, and where the steps do not fit the limits.
    """
    steps = len(forced) if forced is not None else steps
    length = int(prompts.prompt_lengths.max()) + steps
    if length > runtime.limits.max_tokens:
        raise too_many("max-tokens", length, runtime.limits.max_tokens)
    conversation = Conversation(runtime, prompts, room=steps)
    logits = [conversation.logits.cpu().clone()[None]]
    if forced is not None and not runtime.stays_open:
        logits.append(conversation.feed_each(forced).cpu())
    else:
        for step in range(steps):
            conversation.feed(logits[-1][0].argmax(-1) if forced is None else forced[step])
            logits.append(conversation.logits.cpu().clone()[None])
    stacked, features = torch.cat(logits), conversation.image_features
    return Generation(
        stacked,
        stacked.argmax(-1),
        None if features is None else features.cpu(),
        {name: value.cpu() for name, value in conversation.state.items()},
        {name: value.cpu() for name, value in conversation.folded.items()},
    )


def join_generations(parts: list[Generation]) -> Generation:
    """Join the results of several batches into one batch; folded weights belong to one prompt and are left out."""
    features = [part.image_features for part in parts if part.image_features is not None]
    return Generation(
        torch.cat([part.logits for part in parts], 1),
        torch.cat([part.tokens for part in parts], 1),
        torch.cat(features) if features else None,
        {name: torch.cat([part.state[name] for part in parts]) for name in parts[0].state},
    )
