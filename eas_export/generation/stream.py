"""Answers to a conversation's rows, token by token, until each row has come to an end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError
from .conversation import Conversation, Finish
from .sampling import GREEDY, Sampling, choose


@dataclass(frozen=True)
class Token:
    """One token that a row said; `finish` is why it was the row's last, None where more will come."""

    row: int
    id: int
    finish: Finish | None


@dataclass(frozen=True)
class Answer:
    """All that a row said; an end token is the last of `tokens`. Empty where the row had come to its end before."""

    tokens: tuple[int, ...]
    finish: Finish


def stream(
    conversation: Conversation,
    max_new_tokens: int,
    eos: int | None = None,
    sampling: Sampling = GREEDY,
    rows: Sequence[int] | None = None,
) -> Iterator[list[Token]]:
    """Every step's new tokens, of the rows that have not come to their end.

    max_new_tokens  at least 1
    eos             the end token, None where the model has none
    rows            the rows' numbers for sampling (see generation/sampling.py), 0, 1, ... by default

    A row's last token stays pending: `conversation.extend` says it with the next turn. An answer that ended by length, or that
    nobody read to its end, goes on with the next `stream`; one that ended by eos or limit waits for a turn.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}", where="stream", fix="ask for one token at least")
    numbers = range(len(conversation.lengths)) if rows is None else rows
    conversation.reserve(max_new_tokens)
    going = _rows_that_go_on(conversation)
    for step in range(1, max_new_tokens + 1):
        if not going.any():
            return
        conversation.feed(conversation.pending, going & (conversation.pending >= 0))
        chosen = choose(conversation.logits, sampling, numbers, conversation.lengths.tolist())
        conversation.pending = chosen.where(going, conversation.pending)
        said = []
        for row in going.nonzero().flatten().tolist():
            token, full = int(chosen[row]), int(conversation.room[row]) < 1
            ended = Finish.EOS if token == eos else Finish.LENGTH if step == max_new_tokens else None
            said.append(Token(row, token, ended or (Finish.LIMIT if full else None)))
            conversation.finish[row] = said[-1].finish
            conversation.said[row].append(token)
        yield said
        going = torch.tensor([finish is None for finish in conversation.finish])


def answer(
    conversation: Conversation,
    max_new_tokens: int,
    eos: int | None = None,
    sampling: Sampling = GREEDY,
    rows: Sequence[int] | None = None,
    on_step: Callable[[list[Token]], None] = lambda tokens: None,
) -> list[Answer]:
    """Every row's whole answer; arguments as for `stream`, whose every step `on_step` sees."""
    said: list[list[int]] = [[] for _ in conversation.lengths]
    for tokens in stream(conversation, max_new_tokens, eos, sampling, rows):
        on_step(tokens)
        for token in tokens:
            said[token.row].append(token.id)
    return [Answer(tuple(ids), finish) for ids, finish in zip(said, conversation.finish, strict=True)]


def _rows_that_go_on(conversation: Conversation) -> Tensor:
    """[B] bool; their finish is None from now on, and limit for a row whose pending token has no room."""
    for row, (finish, room) in enumerate(zip(conversation.finish, conversation.room.tolist())):
        if finish in (None, Finish.LENGTH):
            conversation.finish[row] = Finish.LIMIT if room < 1 and conversation.pending[row] >= 0 else None
    return torch.tensor([finish is None for finish in conversation.finish])
