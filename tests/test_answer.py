"""Conversations and answers: how rows end, what is pending, several turns, sampling."""

from dataclasses import replace

import pytest
import torch
from conftest import RUN_HERE, golden_case, max_error, text_prompts
from pydantic import ValidationError

from eas_export.backends.opening import open_runtime
from eas_export.core.errors import UserError
from eas_export.core.limits import Limits
from eas_export.generation.conversation import Conversation, Finish
from eas_export.generation.generate import generate
from eas_export.generation.sampling import Sampling, choose
from eas_export.generation.stream import Answer, answer, stream

CASE = golden_case("half_13B")
SAME = 5e-5
ROWS = [5, 6, 7, 8, 9], [12, 13], [40]


@pytest.fixture(params=RUN_HERE)
def runtime(request, bundle_of):
    return open_runtime(bundle_of(CASE, fold="lowrank"), request.param)


@pytest.fixture
def folding(bundle_of):
    return open_runtime(bundle_of(CASE), "onnxruntime")


def greedy(runtime, row: list[int], count: int) -> list[int]:
    return generate(runtime, text_prompts(row), steps=count - 1).tokens[:, 0].tolist()


def test_rows_end_at_different_steps(runtime):
    plain = [greedy(runtime, row, 6) for row in ROWS]
    eos = plain[1][2]  # row 1 says it at its third token at the latest
    got = answer(Conversation(runtime, text_prompts(*ROWS)), 6, {eos})
    for tokens, said in zip(plain, got):
        end = tokens.index(eos) + 1 if eos in tokens else 6
        assert said == Answer(tuple(tokens[:end]), Finish.EOS if eos in tokens else Finish.LENGTH)
    assert len(got[1].tokens) <= 3 and len({len(said.tokens) for said in got}) > 1


def test_an_end_token_counts_also_where_it_is_the_last_one_asked_for(runtime):
    tokens = greedy(runtime, ROWS[0], 3)
    eos = tokens[-1]
    count = tokens.index(eos) + 1
    assert answer(Conversation(runtime, text_prompts(ROWS[0])), count, {eos})[0].finish == "eos"


def test_a_later_step_that_is_not_finite_is_an_error(runtime):
    class Spoiling:
        spec = runtime.sessions["decode"].spec

        def bind(self, inputs, outputs):
            def run():
                runtime.sessions["decode"].run([(inputs, outputs)])
                outputs["logits"][1, 4] = float("nan")

            return run

    spoiled = replace(runtime, sessions={**runtime.sessions, "decode": Spoiling()})
    conversation = Conversation(spoiled, text_prompts(*ROWS))
    conversation.feed(
        torch.tensor([1, 1, 1]), torch.tensor([True, False, True])
    )  # row 1 waits: what it gives is not read
    with pytest.raises(UserError, match="logits are not finite"):
        conversation.feed(torch.tensor([1, 1, 1]))


def test_padding_is_no_token_of_the_answer(runtime):
    small = replace(runtime, limits=Limits(max_batch=8, max_prompt=9, max_tokens=10))
    forced = torch.zeros(5, 2, dtype=torch.int64)
    padded = text_prompts([1, 2], [3], pad=7)
    assert (
        max_error(
            generate(small, padded, forced=forced).logits,
            generate(runtime, text_prompts([1, 2], [3]), forced=forced).logits,
        )
        < SAME
    )


def test_a_full_row_ends_with_limit_and_the_others_go_on(runtime):
    small = replace(runtime, limits=Limits(max_batch=8, max_prompt=5, max_tokens=7))
    got = answer(Conversation(small, text_prompts(*ROWS)), 5)
    # a prompt of 5 has room for 2 tokens; what is said after those is the third
    assert [(len(said.tokens), said.finish) for said in got] == [(3, "limit"), (5, "length"), (5, "length")]
    for row, said in zip(ROWS, got):
        assert list(said.tokens) == greedy(runtime, row, len(said.tokens))


def test_it_streams_every_token_once(runtime):
    conversation = Conversation(runtime, text_prompts(*ROWS))
    steps = list(stream(conversation, 4))
    assert [[token.row for token in step] for step in steps] == [[0, 1, 2]] * 4
    assert all(token.finish is None for step in steps[:-1] for token in step)
    assert [[step[row].id for step in steps] for row in range(3)] == [greedy(runtime, row, 4) for row in ROWS]


@pytest.mark.parametrize("temperature", [0, 2])
def test_an_answer_that_was_left_can_be_taken_up_again(runtime, temperature):
    sampling = Sampling(temperature=temperature)
    whole = answer(Conversation(runtime, text_prompts(*ROWS)), 7, sampling=sampling)
    conversation = Conversation(runtime, text_prompts(*ROWS))
    steps = stream(conversation, 5, sampling=sampling)
    first = [next(steps) for _ in range(2)]  # left in the middle
    second = answer(conversation, 2, sampling=sampling)  # ended by length
    conversation.extend([[], [], []])  # nobody says anything
    third = answer(conversation, 3, sampling=sampling)
    for i, said in enumerate(whole):
        assert tuple(step[i].id for step in first) + second[i].tokens + third[i].tokens == said.tokens


def test_a_row_that_came_to_its_end_waits_for_a_turn(runtime):
    plain = [greedy(runtime, row, 4) for row in ROWS]
    eos = plain[0][1]
    conversation = Conversation(runtime, text_prompts(*ROWS))
    first = answer(conversation, 4, {eos})
    assert first[0].finish == "eos" and first[1].finish == "length"
    before = conversation.logits[0].clone()
    conversation.extend([[], [3], []])
    second = answer(conversation, 3, {eos})
    assert second[0] == Answer((), Finish.EOS) and conversation.logits[0].equal(before)
    assert len(second[1].tokens) > 0 and len(second[2].tokens) > 0
    conversation.extend([[9], [], []])  # now it hears its own end token and the turn
    third = answer(conversation, 1)
    forced = torch.tensor([*first[0].tokens, 9])[:, None]
    want = generate(runtime, text_prompts(ROWS[0]), forced=forced)
    assert (
        third[0].tokens == (int(want.tokens[-1, 0]),) and max_error(conversation.logits[0], want.logits[-1, 0]) < SAME
    )


def test_a_full_row_does_not_hold_the_others_up(runtime):
    small = replace(runtime, limits=Limits(max_batch=8, max_prompt=5, max_tokens=7))
    conversation = Conversation(small, text_prompts(*ROWS))
    assert [said.finish for said in answer(conversation, 3)] == ["length"] * 3  # row 0 is full, its third token pending
    said = answer(conversation, 1)
    assert said[0] == Answer((), Finish.LIMIT) and [len(row.tokens) for row in said] == [0, 1, 1]
    conversation.extend([[], [7], []])
    again = answer(conversation, 1)
    assert again[0] == Answer((), Finish.LIMIT) and len(again[1].tokens) == 1
    with pytest.raises(UserError, match=r"9 tokens of prompt and answer.*--max-tokens 9"):
        conversation.extend([[1], [], []])


def test_caches_grow_as_tokens_come(runtime):
    """Fed one by one without any room that was made before."""
    conversation = Conversation(runtime, text_prompts(*ROWS))
    tokens = torch.randint(96, (12, 3), generator=torch.Generator().manual_seed(0))
    for step in tokens:
        conversation.feed(step)
    want = generate(runtime, text_prompts(*ROWS), forced=tokens)
    assert max_error(conversation.logits, want.logits[-1]) < SAME
    with pytest.raises(UserError, match="token ids range from 1 to 300"):
        conversation.feed(torch.tensor([1, 2, 300]))
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        answer(conversation, 0)


def test_a_conversation_goes_on_with_the_first_prompts_state(runtime):
    """Two turns equal one forced run behind the first prompt: what is said, answer and turn, goes through decode."""
    turns = [[3, 4], [], [50, 51, 52]]
    conversation = Conversation(runtime, text_prompts(*ROWS))
    state = {name: value.clone() for name, value in conversation.state.items()}
    first = answer(conversation, 3)
    conversation.extend(turns)
    second = answer(conversation, 3)
    for name, value in conversation.state.items():
        assert value.equal(state[name])
    for i, row in enumerate(ROWS):
        said = [*first[i].tokens, *turns[i], *second[i].tokens]
        forced = torch.tensor(said[:-1])[:, None]
        want = generate(runtime, text_prompts(row), forced=forced)
        assert want.tokens[-3:, 0].tolist() == list(second[i].tokens)
        assert max_error(conversation.logits[i], want.logits[-1, 0]) < SAME


def test_a_new_prompt_makes_a_state_of_its_own(runtime):
    """The same words as one long prompt are another function than as two turns: their state is made from all of them."""
    row, turn = ROWS[0], [3, 4]
    conversation = Conversation(runtime, text_prompts(row))
    conversation.extend([turn])
    afresh = Conversation(runtime, text_prompts(row + turn))
    assert max_error(conversation.state["router"], afresh.state["router"]) > 1e-3
    assert max_error(conversation.state["pooled"], afresh.state["pooled"]) > 1e-3
    assert max_error(conversation.logits, afresh.logits) > 1e-3


def test_a_folded_conversation_keeps_its_weights(folding, runtime):
    """Both modes, two turns: one function."""
    said = []
    for each in (folding, runtime):
        conversation = Conversation(each, text_prompts(ROWS[0]))
        first = answer(conversation, 3)
        conversation.extend([[3, 4]])
        said.append((first, answer(conversation, 3), conversation.logits))
    assert said[0][:2] == said[1][:2] and max_error(said[0][2], said[1][2]) < SAME


def test_extend_refuses_what_does_not_fit(runtime):
    small = replace(runtime, limits=Limits(max_batch=8, max_prompt=5, max_tokens=8))
    conversation = Conversation(small, text_prompts(*ROWS))
    with pytest.raises(UserError, match=r"9 tokens of prompt and answer, the bundle takes 8.*--max-tokens 9"):
        conversation.extend([[1, 2, 3, 4], [], []])
    with pytest.raises(UserError, match="2 turns for 3 rows"):
        conversation.extend([[3], [4]])
    with pytest.raises(UserError, match="token ids range from -1"):
        conversation.extend([[3], [-1], []])
    with pytest.raises(UserError, match=r"token ids range from 3 to 96, expected 0 to 95"):
        conversation.extend([[3], [96], []])
    assert conversation.lengths.tolist() == [5, 2, 1]  # nothing was fed
    conversation.extend([[1, 2, 3], [], [4]])
    assert conversation.lengths.tolist() == [8, 2, 2]
    full = conversation.logits[0]
    conversation.extend([[], [7], [7]])  # a row that is full stays as it is
    assert conversation.logits[0].equal(full)
    with pytest.raises(UserError, match="--max-tokens"):
        conversation.feed(torch.tensor([1, 1, 1]))


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_fold_that_is_not_finite_is_an_error(folding, value):
    """fp16 has no number above 65504: a fold that leaves it is refused, not decoded with."""
    name = folding.sessions["fold"].spec.outputs[-2].name

    class Overflowing:
        spec = folding.sessions["fold"].spec

        def run(self, requests):
            folding.sessions["fold"].run(requests)
            requests[0][1][name][3, 5] = float(value)

    spoiled = replace(folding, sessions={**folding.sessions, "fold": Overflowing()})
    with pytest.raises(UserError, match=rf"folded weights are not finite \({name}\)"):
        Conversation(spoiled, text_prompts(ROWS[0]))


def draw(logits: torch.Tensor, **options) -> torch.Tensor:
    """Rows 0, 1, ... of length 7."""
    return choose(logits, Sampling(**options), range(len(logits)), [7] * len(logits))


def test_sampling_draws_by_probability_within_top_p():
    logits = torch.log(torch.tensor([[0.05, 0.5, 0.15, 0.3]])).expand(4000, 4)

    def shares(**options) -> torch.Tensor:
        return draw(logits, **options).bincount(minlength=4) / 4000

    assert max_error(shares(temperature=1, seed=5), torch.tensor([0.05, 0.5, 0.15, 0.3])) < 0.03
    # before token 3 lies 0.5, before token 2 0.8: top_p 0.75 keeps 1 and 3
    assert max_error(shares(temperature=1, top_p=0.75), torch.tensor([0, 0.625, 0, 0.375])) < 0.03
    # the square root of probabilities at temperature 2
    want = torch.tensor([0.05, 0.5, 0.15, 0.3]).sqrt()
    assert max_error(shares(temperature=2), want / want.sum()) < 0.03


def test_draws_are_the_seeds_the_rows_and_the_lengths():
    logits = torch.zeros(200, 50)
    first = draw(logits, temperature=1, seed=1)
    assert first.equal(draw(logits, temperature=1, seed=1))
    assert not first.equal(draw(logits, temperature=1, seed=2))
    assert not first[1:].equal(draw(logits, temperature=1, seed=2)[:-1])  # neighbours share no draws
    assert not first.equal(choose(logits, Sampling(temperature=1, seed=1), range(200), [8] * 200))
    assert first[[4, 2]].equal(choose(logits[:2], Sampling(temperature=1, seed=1), [4, 2], [7, 7]))


def test_draws_stay_where_rounding_moves_logits():
    """In a vocabulary of real size a change below our tolerance swaps neighbours in every sort, but hardly any token."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 32000, generator=random)
    moved = logits + 5e-5 * torch.randn(300, 32000, generator=random)
    assert int((draw(logits, temperature=1) != draw(moved, temperature=1)).sum()) <= 1


@pytest.mark.parametrize("temperature", [0, 1e-300])
def test_no_temperature_is_the_likeliest(temperature):
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    assert draw(logits, temperature=temperature).equal(logits.argmax(-1))


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1}]
)
def test_sampling_refuses(bad):
    with pytest.raises(ValidationError):
        Sampling(**bad)
