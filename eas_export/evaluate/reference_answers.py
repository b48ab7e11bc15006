"""The reference's own greedy answers, without a pass through the network per token.

As in speculative decoding, another model's answer is a draft, and one pass over prompt and draft gives the reference's choice at every
position. The draft is right up to the first position where it has another token; the reference's token replaces that one, the other model
goes on from there, and the rest is read again. The result does not depend on the drafting model, only the number of passes does.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends.runtime import Runtime
from ..generation.conversation import Conversation, together
from ..generation.generate import Generation
from ..generation.stream import answer
from ..networks.decoder.prompts import Prompts, join_prompts

Tokens = tuple[int, ...]
Read = Callable[[list[Prompts], list[Tensor]], list[Generation]]
GoOn = Callable[[Sequence[Prompts], Sequence[Tokens]], list[Tokens]]


@dataclass(frozen=True)
class Ends:
    """Where an answer ends: with one of these tokens, after `max_new_tokens`, or where prompt and answer fill `max_tokens`."""

    tokens: Collection[int]
    max_new_tokens: int
    max_tokens: int

    def most(self, prompt: Prompts) -> int:
        """Tokens of an answer to the prompt; the last one is never fed."""
        return min(self.max_new_tokens, self.max_tokens - int(prompt.prompt_lengths) + 1)

    def reached(self, prompt: Prompts, tokens: Tokens) -> bool:
        return (bool(tokens) and tokens[-1] in self.tokens) or len(tokens) >= self.most(prompt)


def reference_answers(
    read: Read, go_on: GoOn, prompts: Sequence[Prompts], drafts: Sequence[Tokens], ends: Ends
) -> list[Tokens]:
    """The greedy answer to each prompt of the model that `read` gives the logits of.

    read    Reference.read
    go_on   prompts and the beginnings of their answers, which have not ended -> whole answers, greedily, by any model
    drafts  answers that have ended
    """
    answers, settled = list(drafts), [0] * len(drafts)  # how many leading tokens are the reference's
    rows = list(range(len(drafts)))
    while rows:
        forced = [torch.tensor(answers[row][:-1], dtype=torch.int64)[:, None] for row in rows]  # [steps, 1]
        chosen = [one.tokens[:, 0].tolist() for one in read([prompts[row] for row in rows], forced)]
        for row, tokens in zip(rows, chosen):
            answers[row] = corrected(answers[row], tokens, settled[row])
            settled[row] = len(answers[row])
        rows = [row for row in rows if not ends.reached(prompts[row], answers[row])]
        for row, whole in zip(rows, go_on([prompts[row] for row in rows], [answers[row] for row in rows])):
            answers[row] = whole
    return answers


def corrected(draft: Tokens, chosen: Sequence[int], settled: int) -> Tokens:
    """The draft up to and including the first token that differs from the chosen one, which replaces it. Settled tokens stay: another
    batch may round two close choices differently, and would flip them back."""
    for place in range(settled, len(draft)):
        if draft[place] != chosen[place]:
            return (*draft[:place], chosen[place])
    return draft


def continued(
    runtime: Runtime,
    ends: Ends,
    prompts: Sequence[Prompts],
    begun: Sequence[Tokens],
    done: Callable[[int], None] = lambda count: None,
) -> list[Tokens]:
    """The runtime's greedy answers, continued from the tokens they begin with, in batches. done: called with each batch's size"""
    answers, size = [], runtime.limits.max_batch
    for first in range(0, len(prompts), size):
        batch = slice(first, first + size)
        mine, before = prompts[batch], begun[batch]
        whole: dict[int, Tokens] = {}
        for rows in together(runtime, mine):
            group = [mine[row] for row in rows], [before[row] for row in rows]
            whole |= zip(rows, _continue_batch(runtime, ends, *group))
        answers += [whole[row] for row in range(len(mine))]
        done(len(mine))
    return answers


def _continue_batch(runtime: Runtime, ends: Ends, prompts: Sequence[Prompts], begun: Sequence[Tokens]) -> list[Tokens]:
    conversation = Conversation(runtime, join_prompts(list(prompts)), ends.max_new_tokens)
    conversation.extend([list(tokens) for tokens in begun])
    missing = [ends.most(prompt) - len(tokens) for prompt, tokens in zip(prompts, begun)]
    replies = answer(conversation, max(missing), ends.tokens)
    return [(*tokens, *more.tokens[:count]) for tokens, more, count in zip(begun, replies, missing)]
