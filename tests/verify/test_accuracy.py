"""The reference's answers are its greedy ones, whoever drafts them; accuracy is counted over labelled questions."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
from conftest import TINY

from eas_export.backends.opening import open_runtime
from eas_export.backends.pytorch import open_network
from eas_export.backends.runtime import Runtime
from eas_export.core.limits import Limits
from eas_export.core.precision import PRECISIONS
from eas_export.core.progress import Progress
from eas_export.evaluate import accuracy
from eas_export.evaluate.accuracy import compare_answers, measure_accuracy
from eas_export.evaluate.reference_answers import Ends, continued, corrected, reference_answers
from eas_export.families import get_family
from eas_export.families.processing.question import Question
from eas_export.families.processing.tokenizer import Tokenizer
from eas_export.generation.conversation import Conversation
from eas_export.generation.stream import answer
from eas_export.inputs.questions import make_prompt, read_questions
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.verify.reference import Reference

CONFIG, FAMILY = TINY.checkpoint.config, get_family(TINY.checkpoint.config.family)
TOKENIZER = Tokenizer(TINY.checkpoint.tokenizer, CONFIG.vocab_size)
QUESTIONS = read_questions(Path(__file__).parents[2] / "tests" / "tiny" / "prompts" / "labelled.jsonl")
PROMPTS = [make_prompt(question, CONFIG, FAMILY, TOKENIZER, "here") for question in QUESTIONS]
LONGEST = max(int(prompt.prompt_lengths) for prompt in PROMPTS)
LIMITS = Limits(max_batch=3, max_prompt=LONGEST, max_tokens=512)
NEW = 12


@cache
def parameters() -> dict:
    made = network_parameters(prune(TINY.checkpoint, TINY.plan), TINY.plan, PRECISIONS["fp32"], LIMITS)
    return {name: tensor.read for name, tensor in made.items()}


@cache
def network(fold: str, max_tokens: int = LIMITS.max_tokens) -> Runtime:
    limits = LIMITS.model_copy(update={"max_batch": 1 if fold == "weights" else 3})
    runtime = open_network(CONFIG, TINY.plan, PRECISIONS["fp32"], limits, fold, parameters())
    return replace(runtime, limits=limits.model_copy(update={"max_tokens": max_tokens}))


def reference() -> Reference:
    return Reference(CONFIG, TINY.plan, LIMITS, parameters())


@cache
def naive(eos: int, max_tokens: int = LIMITS.max_tokens) -> list[tuple[int, ...]]:
    runtime = network("weights", max_tokens)
    return [answer(Conversation(runtime, prompt), NEW, {eos})[0].tokens for prompt in PROMPTS]


def wrong(runtime: Runtime, change) -> Runtime:
    """The runtime with `change` on the logits that its decode step gives."""

    class Wrong:
        spec = runtime.sessions["decode"].spec

        def bind(self, inputs, outputs):
            right = runtime.sessions["decode"].bind(inputs, outputs)

            def run():
                right()
                outputs["logits"].copy_(change(outputs["logits"].clone(), inputs["cache_lengths"]))

            return run

    return replace(runtime, sessions={**runtime.sessions, "decode": Wrong()})


def every_third(logits, lengths):
    """Another token at every third length."""
    return logits.roll(1, -1).where((lengths % 3 == 0)[:, None], logits)


def as_it_is(logits, lengths):
    return logits


def permuted(logits, lengths):
    return logits.roll(1, -1)


class Counted:
    """Reference.read, and the steps of each prompt that it was given."""

    def __init__(self):
        self.read, self.seen = reference().read, []

    def __call__(self, prompts, forced):
        self.seen.append([len(fed) for fed in forced])
        return self.read(prompts, forced)


@pytest.mark.parametrize("fold", ["weights", "lowrank"])
@pytest.mark.parametrize(
    "change, most", [(as_it_is, 1), (every_third, NEW // 3 + 2), (permuted, NEW)], ids=["right", "third", "permuted"]
)
@pytest.mark.parametrize("end", ["none", "said", "limit"])
def test_the_references_answers_are_its_greedy_ones(fold, change, most, end):
    """Answers of different lengths, with and without images; one that ends by a token, and ones that fill the bundle."""
    plain = naive(-1)
    assert len(set(plain)) > 1
    eos = plain[0][4] if end == "said" else -1
    max_tokens = LONGEST + 3 if end == "limit" else LIMITS.max_tokens
    want = naive(eos, max_tokens)
    assert (len({len(tokens) for tokens in want}) > 1) == (end != "none")
    runtime = wrong(network(fold, max_tokens), change)
    ends = Ends({eos}, NEW, max_tokens)
    go_on, read = partial(continued, runtime, ends), Counted()
    drafts = go_on(PROMPTS, [()] * len(PROMPTS))
    assert (drafts == want) == (change is as_it_is)
    assert reference_answers(read, go_on, PROMPTS, drafts, ends) == want
    assert 1 <= len(read.seen) <= most and read.seen[0] == [len(draft) - 1 for draft in drafts]


def test_answers_go_on_from_where_they_began():
    ends, done = Ends((), NEW, LIMITS.max_tokens), []
    runtime = network("lowrank")
    whole = naive(-1)
    begun = [tokens[:count] for tokens, count in zip(whole, (0, 5, 1, NEW - 1, 3))]
    assert continued(runtime, ends, PROMPTS, begun, done.append) == whole and done == [3, 2]
    assert continued(runtime, ends, [], []) == []


def test_a_draft_is_corrected_at_its_first_difference():
    assert corrected((5, 6, 7), [5, 6, 7], 0) == (5, 6, 7)
    assert corrected((5, 6, 7), [5, 9, 8], 0) == (5, 9)
    assert corrected((5, 6, 7), [4, 9, 8], 0) == (4,)
    assert corrected((5, 6, 7), [4, 6, 8], 1) == (5, 6, 8)  # what is settled stays


@pytest.mark.parametrize("together", [2, 64])
def test_accuracy_of_the_demo(bundle_of, monkeypatch, together):
    """Random weights answer nothing right, but the same."""
    monkeypatch.setattr(accuracy, "TOGETHER", together)
    told = []

    class Heard(Progress):
        def stage(self, title, total=None, unit="bytes"):
            told.append(total)
            return super().stage(title, total, unit)

    good = {fold: open_runtime(bundle_of(TINY, fold=fold), "onnxruntime") for fold in ("weights", "lowrank")}
    questions = [QUESTIONS[0], Question(prompt="no label"), *QUESTIONS[1:]]
    runtimes = {**good, "permuted": wrong(good["weights"], permuted)}
    got = measure_accuracy(runtimes, CONFIG, reference().read, FAMILY, TOKENIZER, questions, NEW, Heard())
    assert got.questions == len(QUESTIONS) and got.metric == "VQA and multiple choice" and told == [4 * len(QUESTIONS)]
    assert got.bundle["weights"] == got.bundle["lowrank"] == got.reference
    assert got.agree == {"weights": 1, "lowrank": 1, "permuted": 0}
    drafted_badly = measure_accuracy(
        {"permuted": runtimes["permuted"]}, CONFIG, reference().read, FAMILY, TOKENIZER, questions, NEW
    )
    assert drafted_badly.reference == got.reference and drafted_badly.agree == {"permuted": 0}


def test_without_labels_there_is_no_accuracy():
    unlabelled = [question.model_copy(update={"answer": None}) for question in QUESTIONS]
    runtimes = {"pytorch": network("lowrank")}
    assert measure_accuracy(runtimes, CONFIG, reference().read, FAMILY, TOKENIZER, unlabelled) is None
    assert measure_accuracy({}, CONFIG, reference().read, FAMILY, TOKENIZER, QUESTIONS) is None


def test_shares_are_means():
    questions = [
        Question(question="Q", options=("x", "y"), answer="y"),
        Question(question="Q", options=("x", "y"), answer="x"),
        Question(question="Q", answer=("two", "two", "2")),
        Question(question="Q", answer="no"),
    ]
    replies = {1: "The answer is B.", 2: "two", 3: "no", 4: "y"}
    got = compare_answers(
        questions,
        [(1,), (1,), (2,), (3,)],
        {"same": [(1,), (1,), (2,), (3,)], "other": [(4,), (1,), (3,), (2,)]},
        lambda tokens: replies[tokens[0]],
    )
    assert got.questions == 4 and got.metric == "VQA and multiple choice"
    assert got.reference == got.bundle["same"] == pytest.approx((1 + 0 + 2 / 3 + 1) / 4)
    assert got.bundle["other"] == 0.25 and got.agree == {"same": 1, "other": 0.25}
