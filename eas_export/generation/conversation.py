"""A conversation over a batch of prompts: prefill, fold and decode on any backend's sessions.

The rule for several turns: a conversation's fold state (router weights and pooled features) is computed from its first prompt and
frozen. Later tokens, of the model or the user, go through decode and change the KV caches only. A new prompt starts a new conversation
with its own state. Any other rule would make folded and unfolded decoding differ.
"""

from collections.abc import Sequence
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends.runtime import Bound, Runtime, Tensors
from ..core.errors import UserError
from ..families.processing.chat_template import Message
from ..networks.decoder.prompts import Prompts
from ..networks.decoder.routers import MODALITIES
from ..system.memory import enough_memory


class Finish(StrEnum):
    """Why an answer ended."""

    EOS = "eos"  # the model generated its end token
    LENGTH = "length"  # it has the requested number of tokens
    LIMIT = "limit"  # the bundle's --max-tokens is reached


class TooMany(UserError):
    """More than the bundle's limits allow."""


class Conversation:
    """A batch of prompts after prefill, and the state of each row.

    logits          [B, vocab] float32 after each row's last token, on the runtime's device like all results of graphs; overwritten by the
                    next token fed
    lengths         [B] int64: tokens so far, also the next one's cache slot and position
    pending         [B] int64: the token that was chosen but not fed yet, -1 for none (see generation/stream.py)
    finish          why each row's last answer ended, None before its end
    answers         the tokens of each row's last answer
    messages        each row's messages before that answer, for a chat template; empty where the prompts are token ids
    state           router [B, layers, 2] and pooled [B, skipped, rank] float32, frozen
    folded          weights with adapters folded in: with the state, or those of the prompts' modality; empty if the runtime does not fold
    image_features  [N * tokens, dim], or None without images

    Raises UserError for prompts beyond the runtime's limits, and for a fold or logits that are not finite.
    """

    def __init__(self, runtime: Runtime, prompts: Prompts, room: int = 0):
        """Prefill the prompts and reserve `room` cache slots for more tokens, which saves growing the caches later."""
        check_prompts(runtime, prompts)
        self.runtime = runtime
        self.lengths = prompts.prompt_lengths.clone()
        self.pending = torch.full_like(self.lengths, -1)
        self.finish: list[Finish | None] = [None] * len(self.lengths)
        self.answers: list[list[int]] = [[] for _ in self.lengths]
        self.messages: list[list[Message]] = [[] for _ in self.lengths]
        self._slots = min(prompts.input_ids.shape[1] + room, runtime.limits.max_tokens)
        self._caches = empty_caches(runtime, len(prompts.input_ids), self._slots)
        self._step: Bound | None = None  # the decode graph, bound to the caches
        features = encode_images(runtime, prompts)
        self.folded = set_of(runtime, prompts)
        after = prefill(runtime, prompts, features, self._caches | self.folded)
        self.image_features = None if prompts.pixel_values is None else features
        self.state = _finite(
            {name: after[name] for name in ("router", "pooled") if name in after}, "values of the fold state"
        )
        self.logits = _finite({"prefill": after["logits"]}, "logits")["prefill"]
        if "fold" in runtime.sessions:
            self.folded = _finite(runtime.run("fold", self.state), "folded weights")

    @property
    def room(self) -> Tensor:
        """[B] int64: how many more tokens each row can take within the runtime's limits"""
        return self.runtime.limits.max_tokens - self.lengths

    def reserve(self, tokens: int) -> None:
        """Grow the caches for so many more tokens in each row, as far as the limits allow."""
        slots = min(int(self.lengths.max()) + tokens, self.runtime.limits.max_tokens)
        if slots > self._slots:
            self._slots = slots
            sizes = [cache.shape[2] for cache in self._caches.values()]  # [B, kv_heads, slots, head_dim]
            if sizes and sizes[0] < slots:  # an engine's caches have all slots from the start
                self._caches = {name: F.pad(cache, (0, 0, 0, slots - sizes[0])) for name, cache in self._caches.items()}
                self._step = None

    def feed(self, tokens: Tensor, rows: Tensor | None = None) -> None:
        """Decode one more token in `rows`, [B] bool, default all; other rows do not change.

        tokens [B] int64, read where rows are True. Raises UserError where a row is full, and for invalid token ids.
        """
        rows = torch.ones_like(self.lengths, dtype=torch.bool) if rows is None else rows
        if not rows.any():
            return
        if int(self.room[rows].min()) < 1:
            raise too_many("max-tokens", self.runtime.limits.max_tokens + 1, self.runtime.limits.max_tokens)
        _check_ids(self.runtime, tokens[rows])
        if int(self.lengths.max()) >= self._slots:
            self.reserve(self._slots)  # doubles them
        # Other rows write a dummy into their next free slot, which their next token overwrites; a full row has no next token
        slots = self.lengths.clamp(max=self._slots - 1)
        inputs = decode_inputs(tokens.where(rows, 0), slots, self._caches, self.folded or self.state)
        if self._step is None:
            self._step = self.runtime.bind("decode", inputs)
        for name in STEP_INPUTS:
            self._step.inputs[name].copy_(inputs[name])
        self._step.run()
        logits = self._step.outputs["logits"]
        _finite({"decode": logits if rows.all() else logits[rows.to(logits.device)]}, "logits")
        torch.where(rows[:, None].to(logits.device), logits, self.logits, out=self.logits)
        self.lengths = self.lengths + rows
        self.pending = self.pending.masked_fill(rows, -1)
        self.finish = [None if fed else finish for fed, finish in zip(rows.tolist(), self.finish)]

    def feed_each(self, tokens: Tensor) -> Tensor:
        """Decode given tokens one after the other in every row: [steps, B] int64 -> the logits after each, [steps, B, vocab]. Raises
        UserError as `feed` does."""
        steps, limit = len(tokens), self.runtime.limits.max_tokens
        if steps == 0:
            return self.logits.new_empty(0, *self.logits.shape)
        if int(self.room.min()) < steps:
            raise too_many("max-tokens", int(self.lengths.max()) + steps, limit)
        _check_ids(self.runtime, tokens)
        self.reserve(steps)
        adapters = self.folded or self.state
        inputs = [
            decode_inputs(token, self.lengths + step, self._caches, adapters) for step, token in enumerate(tokens)
        ]
        logits = torch.stack([after["logits"] for after in self.runtime.run_each("decode", inputs)])
        self.logits = _finite({"decode": logits}, "logits")["decode"][-1].clone()
        self.lengths = self.lengths + steps
        self.pending = torch.full_like(self.lengths, -1)
        self.finish = [None for _ in self.finish]
        return logits

    def extend(self, turns: list[list[int]]) -> None:
        """Feed the next turn's token ids, one list per row, after the pending token. The fold state stays.

        A row with an empty turn does not change: if its answer has ended it waits, else the answer continues. Raises UserError, and feeds
        nothing, where the turns do not fit.
        """
        if len(turns) != len(self.lengths):
            what = f"there are {len(turns)} turns for {len(self.lengths)} rows"
            raise UserError(what, where="extend", fix="give one turn per row, an empty one for a row that waits")
        fed = [
            ([last] if last >= 0 else []) + list(turn) if turn else []
            for last, turn in zip(self.pending.tolist(), turns)
        ]
        counts = torch.tensor([len(tokens) for tokens in fed])
        if (counts > self.room).any():
            length = int((self.lengths + counts).max())
            raise too_many("max-tokens", length, self.runtime.limits.max_tokens)
        _check_ids(self.runtime, torch.tensor([token for tokens in fed for token in tokens] or [0]))
        self.reserve(int(counts.max()) + 1)
        self.answers = [[] if tokens else before for tokens, before in zip(fed, self.answers)]
        for step in range(int(counts.max())):
            rows = counts > step
            self.feed(torch.tensor([tokens[step] if step < len(tokens) else 0 for tokens in fed]), rows)


def encode_images(runtime: Runtime, prompts: Prompts) -> Tensor:
    """Image features [N * tokens, dim]; one row of zeros without images."""
    if runtime.config.vision is None:
        return torch.zeros(1, runtime.config.dim)
    spec = runtime.sessions["vision"].spec
    if prompts.pixel_values is None:
        return torch.zeros(1, runtime.config.dim, dtype=getattr(torch, spec.outputs[0].dtype))
    pixels = prompts.pixel_values.to(getattr(torch, spec.inputs[0].dtype))
    return runtime.run("vision", {"pixel_values": pixels})["image_features"].flatten(0, 1)


def set_of(runtime: Runtime, prompts: Prompts) -> Tensors:
    """The folded weights of the prompts' modality, by the graphs' inputs; empty for a runtime whose graphs take none. Raises UserError for
    prompts of both modalities."""
    if not runtime.sets:
        return {}
    with_image = (prompts.image_index >= 0).any(1)  # [B]
    if with_image.any() and not with_image.all():
        what = "there are prompts with an image and prompts without, but folded weights belong to one of both"
        raise UserError(what, where="input_ids", fix="run them apart, or build with --fold lowrank")
    return runtime.sets[MODALITIES[int(with_image[0])]]


def together(runtime: Runtime, prompts: Sequence[Prompts]) -> list[list[int]]:
    """Which of the prompts can be in one batch: all, or those with an image and those without, as `set_of` needs them."""
    groups: dict[bool, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(bool(runtime.sets) and prompt.pixel_values is not None, []).append(row)
    return list(groups.values())


def empty_caches(runtime: Runtime, batch: int, slots: int) -> Tensors:
    """Key and value caches of `slots` tokens, or of the number that the runtime fixes. They are zeroed: NaN in an unwritten slot would
    spoil masked results."""
    spec = runtime.sessions["decode"].spec
    sizes = {"B": batch, "T": slots}
    caches = [t for t in spec.inputs if t.name in spec.aliases.values()]
    with enough_memory("caches"):
        return {
            t.name: torch.zeros((batch, *t.sizes(sizes)[1:]), dtype=getattr(torch, t.dtype), device=runtime.device)
            for t in caches
        }


def prefill(runtime: Runtime, prompts: Prompts, features: Tensor, others: Tensors) -> Tensors:
    """Run prefill: fills the caches and returns the logits and the fold state. others: the caches and, where the graph takes them, folded
    weights"""
    return runtime.run("prefill", prefill_inputs(prompts, features) | others)


def prefill_inputs(prompts: Prompts, features: Tensor) -> Tensors:
    """The prefill's inputs without the caches."""
    return {
        "input_ids": prompts.input_ids,
        "image_features": features,
        "image_index": prompts.image_index,
        "prompt_lengths": prompts.prompt_lengths,
    }


STEP_INPUTS = ("input_ids", "position_ids", "cache_lengths")


def decode_inputs(token: Tensor, lengths: Tensor, caches: Tensors, adapters: Tensors) -> Tensors:
    """The inputs of one decode step: token [B], lengths [B] tokens so far (the new token's slot and position)"""
    positions = {"input_ids": token[:, None], "position_ids": lengths[:, None], "cache_lengths": lengths}
    return positions | adapters | caches


def check_prompts(runtime: Runtime, prompts: Prompts, forced: Tensor | None = None) -> None:
    """Raise UserError unless the runtime takes the prompts, and the tokens [steps, B] to feed after them."""
    rows, length = prompts.input_ids.shape
    _check_ids(runtime, prompts.input_ids)
    if rows > 1 and "fold" in runtime.sessions:
        what = f"{rows} prompts at once, but folded weights belong to one prompt"
        raise UserError(what, where="input_ids", fix="run one prompt at a time, or build with --fold lowrank")
    limits = runtime.limits
    features = int((prompts.image_index >= 0).sum(1).max())
    if features and not runtime.config.vision:
        what = "there is an image, but the model takes text only"
        raise UserError(what, where="image_index", fix="leave images out")
    images = features // max(1, runtime.config.image_tokens)
    for name, value, limit in (
        ("max-batch", rows, limits.max_batch),
        ("max-prompt", length, limits.max_prompt),
        ("max-images", images, limits.max_images),
    ):
        if value > limit:
            raise too_many(name, value, limit)
    if forced is not None and forced.numel():
        _check_ids(runtime, forced)
        total = int(prompts.prompt_lengths.max()) + len(forced)
        if total > limits.max_tokens:
            raise too_many("max-tokens", total, limits.max_tokens)


def _check_ids(runtime: Runtime, ids: Tensor) -> None:
    low, high, vocabulary = int(ids.min()), int(ids.max()), runtime.config.vocab_size
    if low < 0 or high >= vocabulary:
        what = f"token ids range from {low} to {high}, expected 0 to {vocabulary - 1}"
        raise UserError(what, where="input_ids", fix="use the model's own tokenizer")


_LIMITED = {
    "max-batch": "prompts",
    "max-images": "images in a prompt",
    "max-prompt": "prompt tokens",
    "max-tokens": "tokens of prompt and answer",
}


def too_many(limit_name: str, value: int, limit: int) -> TooMany:
    return TooMany(
        f"{value} {_LIMITED[limit_name]}, the bundle takes {limit}",
        where="input_ids",
        fix=f"build with --{limit_name} {value}, or give fewer",
    )


def _finite(tensors: Tensors, what: str) -> Tensors:
    """The tensors. Raises UserError for NaN or infinity; reads each once, without copies."""
    for name, tensor in tensors.items():
        if tensor.numel() and not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):
            fix = (
                "run eas-export verify BUNDLE --ckpt CHECKPOINT; a bundle in fp16 or bf16: build with --precision fp32"
            )
            raise UserError(f"the {what} are not finite", where=name, fix=fix)
    return tensors
