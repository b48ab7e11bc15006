"""Teacher forcing: prompts and the tokens after them in one pass. An adapter's state comes from its prompt alone, so tokens after a prompt
change nothing before them, and a step only needs causal attention over earlier tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .prompts import Prompts, join_prompts


@dataclass(frozen=True)
class TeacherForced:
    """A batch for prefill.start_reading; L = prefix + S, for the longest prompt with its fed tokens.

    batch         prompts, each followed by its fed tokens
    lengths       [B] int64: of the prompts alone
    position_ids  [B, L] int64: for a fed token, its slot
    is_fed        [B, L] bool: whether a position holds a fed token
    """

    batch: Prompts
    lengths: Tensor
    position_ids: Tensor
    is_fed: Tensor

    def inputs(self, features: Tensor) -> dict[str, Tensor]:
        """The inputs of start_reading. features: image features [M, dim]"""
        return {
            "input_ids": self.batch.input_ids,
            "image_index": self.batch.image_index,
            "image_features": features,
            "prompt_lengths": self.lengths,
        }


def force_tokens(
    prompts: Sequence[Prompts], fed: Sequence[Tensor], prefix: int, first_position: int = 0
) -> TeacherForced:
    """One batch of prompts of one row each, followed by the tokens [steps] int64 that are fed after each.

    prefix          positions before a prompt's first token (ModelConfig.prefix)
    first_position  see ModelConfig
    """
    whole = [
        Prompts(
            torch.cat([p.input_ids[:, : int(p.prompt_lengths)], tokens[None]], 1),
            p.prompt_lengths + len(tokens),
            torch.cat([p.image_index[:, : int(p.prompt_lengths)], torch.full_like(tokens[None], -1)], 1),
            p.pixel_values,
        )
        for p, tokens in zip(prompts, fed, strict=True)
    ]
    batch = join_prompts(whole)
    lengths = torch.cat([p.prompt_lengths for p in prompts])  # [B]
    slots = torch.arange(batch.input_ids.shape[1])  # [S]
    behind = slots >= lengths[:, None]  # [B, S]
    positions = torch.where(behind, slots, slots + prefix + first_position)  # a fed token's position is its slot
    positions = torch.cat([(torch.arange(prefix) + first_position).expand(len(prompts), -1), positions], 1)  # [B, L]
    is_fed = F.pad(behind & (slots < batch.prompt_lengths[:, None]), (prefix, 0))  # [B, L]
    return TeacherForced(batch, lengths, positions, is_fed)
