"""A batch of prompts and what is said after them: prefill, fold and decode over any backend's sessions; what
the decode graph is fed (decode_inputs).

The rule for several turns: a conversation's fold state (router weights and pooled features) is made by its first prompt and
frozen. What is said later, by the model or by the user, goes through decode and changes the caches only. A new prompt is a new
conversation, with a state of its own. Nothing else would be one function for the fold and for what it replaces.
"""

from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends.runtime import Bound, Runtime, Tensors
from ..core.errors import UserError
from ..networks.decoder.prompts import Prompts
from ..system.memory import enough_memory


class Finish(StrEnum):
    """Why an answer ended."""

    EOS = "eos"  # the model said its end token
    LENGTH = "length"  # as many tokens as were asked for
    LIMIT = "limit"  # as many as the bundle has room for (--max-tokens)


class Conversation:
    """Prompts that were read, and how far each row has come since.

    logits          [B, vocab] float32 after each row's last token, on the runtime's device as all that graphs make; the next token
                    fed overwrites them
    lengths         [B] int64: tokens so far, which is the next one's cache slot and position
    pending         [B] int64: a token that was chosen and not fed yet, -1 for none (see generation/stream.py)
    finish          why each row's last answer ended, None before its end
    said            the tokens of each row's last answer
    state           router [B, layers, 2] and pooled [B, skipped, rank] float32, frozen
    folded          the weights that the state was folded into, where the runtime folds
    image_features  [N * tokens, dim], or None without images

    Raises UserError for prompts beyond the runtime's limits, and for a fold or logits that are not finite.
    """

    def __init__(self, runtime: Runtime, prompts: Prompts, room: int = 0):
        """Read the prompts; `room` as for `reserve`, which is best known before."""
        check_prompts(runtime, prompts)
        self.runtime = runtime
        self.lengths = prompts.prompt_lengths.clone()
        self.pending = torch.full_like(self.lengths, -1)
        self.finish: list[Finish | None] = [None] * len(self.lengths)
        self.said: list[list[int]] = [[] for _ in self.lengths]
        self._slots = min(prompts.input_ids.shape[1] + room, runtime.limits.max_tokens)
        self._caches = empty_caches(runtime, len(prompts.input_ids), self._slots)
        self._step: Bound | None = None  # decoding, bound to the caches
        features = encode_images(runtime, prompts)
        after = prefill(runtime, prompts, features, self._caches)
        self.image_features = None if prompts.pixel_values is None else features
        self.state = _finite(
            {name: after[name] for name in ("router", "pooled") if name in after}, "numbers of the fold state"
        )
        self.logits = _finite({"prefill": after["logits"]}, "logits")["prefill"]
        folds = "fold" in runtime.sessions
        self.folded = _finite(runtime.run("fold", self.state), "folded weights") if folds else {}

    @property
    def room(self) -> Tensor:
        """How many more tokens each row can be fed within the runtime's limits: [B]"""
        return self.runtime.limits.max_tokens - self.lengths

    def reserve(self, tokens: int) -> None:
        """Make the caches large enough for so many more tokens in each row, or for as many as the limits allow."""
        slots = min(int(self.lengths.max()) + tokens, self.runtime.limits.max_tokens)
        if slots > self._slots:
            self._slots = slots
            sizes = [cache.shape[2] for cache in self._caches.values()]  # the slots are the last axis but one
            if sizes and sizes[0] < slots:  # an engine's are as many as there can be from the start
                self._caches = {name: F.pad(cache, (0, 0, 0, slots - sizes[0])) for name, cache in self._caches.items()}
                self._step = None

    def feed(self, tokens: Tensor, rows: Tensor | None = None) -> None:
        """One more token for `rows`, [B] bool, all rows by default; the others stay as they are.

        tokens [B] int64, read where rows are True. Raises UserError where a row is full, and for ids that are none.
        """
        rows = torch.ones_like(self.lengths, dtype=torch.bool) if rows is None else rows
        if not rows.any():
            return
        if int(self.room[rows].min()) < 1:
            raise too_many("max-tokens", self.runtime.limits.max_tokens + 1, self.runtime.limits.max_tokens)
        _check_ids(self.runtime, tokens[rows])
        if int(self.lengths.max()) >= self._slots:
            self.reserve(self._slots)  # twice as many, not one more each time
        # A row that stays writes into its next free slot, which is written again when it goes on; a full row never does
        slots = self.lengths.clamp(max=self._slots - 1)
        given = decode_inputs(tokens.where(rows, 0), slots, self._caches, self.folded or self.state)
        if self._step is None:
            self._step = self.runtime.bind("decode", given)
        for name in STEP_INPUTS:
            self._step.inputs[name].copy_(given[name])
        self._step.run()
        logits = self._step.outputs["logits"]
        _finite({"decode": logits if rows.all() else logits[rows.to(logits.device)]}, "logits")
        torch.where(rows[:, None].to(logits.device), logits, self.logits, out=self.logits)
        self.lengths = self.lengths + rows
        self.pending = self.pending.masked_fill(rows, -1)
        self.finish = [None if fed else finish for fed, finish in zip(rows.tolist(), self.finish)]

    def feed_each(self, tokens: Tensor) -> Tensor:
        """Tokens that are known beforehand, one after the other, in every row: [steps, B] int64 -> the logits after each,
        [steps, B, vocab]. Raises UserError as `feed` does."""
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
        """Go on with the next turn's token ids, one list per row, behind what is pending. The fold state stays.

        A row with an empty turn stays as it is: it waits where its answer had come to an end, else goes on with it.
        Raises UserError, and feeds nothing, where the turns do not fit.
        """
        if len(turns) != len(self.lengths):
            what = f"there are {len(turns)} turns for {len(self.lengths)} rows"
            raise UserError(what, where="extend", fix="give one turn per row, an empty one for a row that waits")
        said = [
            ([last] if last >= 0 else []) + list(turn) if turn else []
            for last, turn in zip(self.pending.tolist(), turns)
        ]
        counts = torch.tensor([len(tokens) for tokens in said])
        if (counts > self.room).any():
            length = int((self.lengths + counts).max())
            raise too_many("max-tokens", length, self.runtime.limits.max_tokens)
        _check_ids(self.runtime, torch.tensor([token for tokens in said for token in tokens] or [0]))
        self.reserve(int(counts.max()) + 1)
        self.said = [[] if tokens else before for tokens, before in zip(said, self.said)]
        for step in range(int(counts.max())):
            rows = counts > step
            self.feed(torch.tensor([tokens[step] if step < len(tokens) else 0 for tokens in said]), rows)


def encode_images(runtime: Runtime, prompts: Prompts) -> Tensor:
    """Image features [N * tokens, dim]; one row of zeros where there is no image."""
    if runtime.config.vision is None:
        return torch.zeros(1, runtime.config.dim)
    spec = runtime.sessions["vision"].spec
    if prompts.pixel_values is None:
        return torch.zeros(1, runtime.config.dim, dtype=getattr(torch, spec.outputs[0].dtype))
    pixels = prompts.pixel_values.to(getattr(torch, spec.inputs[0].dtype))
    return runtime.run("vision", {"pixel_values": pixels})["image_features"].flatten(0, 1)


def empty_caches(runtime: Runtime, batch: int, slots: int) -> Tensors:
    """Zeroed key and value caches of `slots` tokens, or of as many as the runtime fixes: NaN in a slot that was never written would
    poison masked results."""
    spec = runtime.sessions["decode"].spec
    sizes = {"B": batch, "T": slots}
    caches = [t for t in spec.inputs if t.name in spec.aliases.values()]
    with enough_memory("caches"):
        return {
            t.name: torch.zeros((batch, *t.sizes(sizes)[1:]), dtype=getattr(torch, t.dtype), device=runtime.device)
            for t in caches
        }


def prefill(runtime: Runtime, prompts: Prompts, features: Tensor, caches: Tensors) -> Tensors:
    """logits and the fold state; fills the caches."""
    return runtime.run("prefill", prefill_inputs(prompts, features) | caches)


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
    """One step's inputs: token [B], lengths [B] tokens so far (the new token's slot and position)"""
    positions = {"input_ids": token[:, None], "position_ids": lengths[:, None], "cache_lengths": lengths}
    return positions | adapters | caches


def check_prompts(runtime: Runtime, prompts: Prompts, forced: Tensor | None = None) -> None:
    """Raise UserError unless the runtime takes the prompts, and the tokens [steps, B] that are to be fed after them."""
    rows, length = prompts.input_ids.shape
    _check_ids(runtime, prompts.input_ids)
    if rows > 1 and "fold" in runtime.sessions:
        what = f"{rows} prompts at once, but folded weights belong to one prompt"
        raise UserError(what, where="input_ids", fix="run one prompt at a time, or build with --fold lowrank")
    limits = runtime.limits
    features = int((prompts.image_index >= 0).sum(1).max())
    if features and not runtime.config.vision:
        what = "there is an image, and the model reads text alone"
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
        what = f"token ids reach from {low} to {high}"
        raise UserError(what, where="input_ids", fix=f"use the model's own tokenizer: ids from 0 to {vocabulary - 1}")


_LIMITED = {
    "max-batch": "prompts",
    "max-images": "images in a prompt",
    "max-prompt": "prompt tokens",
    "max-tokens": "tokens of prompt and answer",
}


def too_many(limit_name: str, value: int, limit: int) -> UserError:
    return UserError(
        f"{value} {_LIMITED[limit_name]}, the bundle takes {limit}",
        where="input_ids",
        fix=f"build with --{limit_name} {value} or give less",
    )


def _finite(tensors: Tensors, what: str) -> Tensors:
    """The tensors, if they hold no NaN and no infinity; reads each once and copies nothing."""
    for name, tensor in tensors.items():
        if tensor.numel() and not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):
            fix = "build with --precision fp32, and verify the bundle"
            raise UserError(f"the {what} are not finite", where=name, fix=fix)
    return tensors
