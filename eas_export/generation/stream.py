"""Generate answers token by token until every row has ended."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError
from .conversation import Conversation, Finish
from .sampling import GREEDY, Sampling, choose


@dataclass(frozen=True)
class Token:
    """A generated token of a row; `finish` says why it was the row's last, None if it was not."""

    row: int
    id: int
    finish: Finish | None


@dataclass(frozen=True)
class Answer:
    """A row's whole answer; `tokens` includes the end token. Empty if the row had ended before."""

    tokens: tuple[int, ...]
    finish: Finish


def stream(
    conversation: Conversation,
    max_new_tokens: int,
    ends: Collection[int] = (),
    sampling: Sampling = GREEDY,
    rows: Sequence[int] | None = None,
) -> Iterator[list[Token]]:
    """Yield the new tokens of each step, for the rows that have not ended.

    max_new_tokens  at least 1
    ends            the tokens that end an answer
    rows            the rows' numbers for sampling (see generation/sampling.py), default 0, 1, ...

    A row's last token stays pending: `conversation.extend` feeds it before the next turn. An answer that ended by length, or whose stream
    was abandoned, continues with the next `stream`; one that ended by eos or limit waits for a turn.
    """
    if max_new_tokens < 1:
        raise UserError(
            f"max_new_tokens is {max_new_tokens}, expected at least 1", where="stream", fix="ask for at least one token"
        )
    numbers = range(len(conversation.lengths)) if rows is None else rows
    conversation.reserve(max_new_tokens)
    active = _resume_rows(conversation)
    for step in range(1, max_new_tokens + 1):
        if not active.any():
            return
        conversation.feed(conversation.pending, active & (conversation.pending >= 0))
        chosen = choose(conversation.logits, sampling, numbers, conversation.lengths.tolist())
        conversation.pending = chosen.where(active, conversation.pending)
        tokens = []
        for row in active.nonzero().flatten().tolist():
            token, full = int(chosen[row]), int(conversation.room[row]) < 1
            ended = Finish.EOS if token in ends else Finish.LENGTH if step == max_new_tokens else None
            tokens.append(Token(row, token, ended or (Finish.LIMIT if full else None)))
            conversation.finish[row] = tokens[-1].finish
            conversation.answers[row].append(token)
        yield tokens
        active = torch.tensor([finish is None for finish in conversation.finish])


def answer(
    conversation: Conversation,
    max_new_tokens: int,
    ends: Collection[int] = (),
    sampling: Sampling = GREEDY,
    rows: Sequence[int] | None = None,
    on_step: Callable[[list[Token]], None] = lambda tokens: None,
) -> list[Answer]:
    """Every row's whole answer; arguments as for `stream`. `on_step` is called with each step's tokens."""
    answers: list[list[int]] = [[] for _ in conversation.lengths]
    for tokens in stream(conversation, max_new_tokens, ends, sampling, rows):
        on_step(tokens)
        for token in tokens:
            answers[token.row].append(token.id)
    return [Answer(tuple(ids), finish) for ids, finish in zip(answers, conversation.finish, strict=True)]


def _resume_rows(conversation: Conversation) -> Tensor:
    """The rows that continue, [B] bool. Sets their finish to None, and to limit for rows without room for their pending token."""
    for row, (finish, room) in enumerate(zip(conversation.finish, conversation.room.tolist())):
        if finish in (None, Finish.LENGTH):
            conversation.finish[row] = Finish.LIMIT if room < 1 and conversation.pending[row] >= 0 else None
    return torch.tensor([finish is None for finish in conversation.finish])
