"""Answers to a conversation's rows, token by token, until each row has come to an end."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch

from .conversation import Conversation
from .sampling import GREEDY, Chooser, Sampling


class Finish(StrEnum):
    EOS = "eos"  # the model said its end token
    LENGTH = "length"  # as many tokens as were asked for
    LIMIT = "limit"  # as many as the bundle has room for (--max-tokens)


@dataclass(frozen=True)
class Token:
    """One token that a row said; `finish` is why it was the row's last, None where more will come."""

    row: int
    id: int
    finish: Finish | None


@dataclass(frozen=True)
class Answer:
    """All that a row said; an end token is the last of `tokens`."""

    tokens: tuple[int, ...]
    finish: Finish


def stream(
    conversation: Conversation,
    max_new_tokens: int,
    eos: int | None = None,
    sampling: Sampling = GREEDY,
    numbers: Iterable[int] | None = None,
) -> Iterator[list[Token]]:
    """Every step's new tokens, of the rows that are not finished yet.

    max_new_tokens  at least 1
    eos             the end token, None where the model has none
    numbers         the rows' numbers for sampling (see sampling.py), 0, 1, ... by default

    A row's last token stays pending: `conversation.extend` says it with the next turn. Ending the iteration early is allowed.
    """
    count = len(conversation.lengths)
    choose = Chooser(sampling, range(count) if numbers is None else numbers)
    conversation.reserve(max_new_tokens)
    going = torch.ones(count, dtype=torch.bool)
    for step in range(1, max_new_tokens + 1):
        owed = going & (conversation.pending >= 0)
        if owed.any():
            conversation.feed(conversation.pending, owed)
        chosen = choose(conversation.logits)
        conversation.pending = chosen.where(going, conversation.pending)
        said = []
        for row in going.nonzero().flatten().tolist():
            token, full = int(chosen[row]), int(conversation.room[row]) < 1
            finish = Finish.EOS if token == eos else Finish.LENGTH if step == max_new_tokens else None
            said.append(Token(row, token, finish or (Finish.LIMIT if full else None)))
        yield said
        going = going & torch.tensor([not any(t.row == row and t.finish for t in said) for row in range(count)])
        if not going.any():
            return


def answer(
    conversation: Conversation,
    max_new_tokens: int,
    eos: int | None = None,
    sampling: Sampling = GREEDY,
    numbers: Iterable[int] | None = None,
    on_step: Callable[[list[Token]], None] = lambda tokens: None,
) -> list[Answer]:
    """Every row's whole answer; arguments as for `stream`, whose every step `on_step` sees."""
    said: list[list[Token]] = [[] for _ in conversation.lengths]
    for tokens in stream(conversation, max_new_tokens, eos, sampling, numbers):
        on_step(tokens)
        for token in tokens:
            said[token.row].append(token)
    return [Answer(tuple(token.id for token in row), row[-1].finish) for row in said]
