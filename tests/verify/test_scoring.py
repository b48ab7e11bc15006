"""What a reply says, and how right that is."""

import pytest

from eas_export.evaluate.scoring import MULTIPLE_CHOICE, VQA, chosen_option, metric_of, normalised, score, soft_accuracy
from eas_export.families.processing.question import Question

OPTIONS = ("stone", "limestone", "stone and water", "4.5")


@pytest.mark.parametrize(
    "reply, chosen",
    [
        ("The answer is B.", 1),  # as published
        ("The answer is B", 1),
        ("Answer: the answer is (C).\nBECAUSE: (A) and (B) melt.", 2),
        ("The answer is: D", 3),
        ("Answer is D", 3),
        ("The answer is B. So the answer is B.", 1),
        ("The answer is A. The answer is B.", None),
        ("The answer is E.", None),  # no option
        ("The answer is Below.", None),
        ("The answer is limestone.", 1),
        ("(B)", 1),
        ("I choose (B) limestone", 1),
        ("(A) or (B)", None),
        ("B", 1),
        (" B.\n", 1),
        ("B) stone", 1),
        ("D. A stone", 3),
        ("B is a stone", 0),  # a word, not a letter on its own
        ("b", None),
        ("A stone.", 0),
        ("It is LIMESTONE!", 1),
        ("Stone and the water, of course", 2),
        ("stone or limestone", None),
        ("sandstone", None),
        ("about 4.5.", 3),
        ("45", None),
        ("", None),
    ],
)
def test_the_option_that_a_reply_chooses(reply, chosen):
    assert chosen_option(reply, OPTIONS) == chosen
    for answer in range(len(OPTIONS)):
        question = Question(question="Q", options=OPTIONS, answer=answer)
        assert score(reply, question) == float(answer == chosen)


def test_options_without_text_are_never_found():
    assert chosen_option("", ("", "?")) is None and chosen_option("(A)", ("", "?")) == 0


@pytest.mark.parametrize(
    "reply, answers, right",
    [
        ("Two.", ("two",), 1),
        ("three", ("two",), 0),
        ("2", ("two", "2"), 1),  # of one or two answers, one
        ("3", ("two", "2"), 0),
        ("two", ("two", "2", "3"), 1 / 3),
        ("two", ("two",) * 2 + ("2",) * 8, 2 / 3),
        ("two", ("two",) * 3 + ("2",) * 7, 1),
        ("two", ("two",) * 10, 1),
        ("", ("two",) * 10, 0),
    ],
)
def test_soft_accuracy(reply, answers, right):
    assert soft_accuracy(reply, answers) == score(reply, Question(question="Q", answer=answers)) == pytest.approx(right)


@pytest.mark.parametrize(
    "one, other",
    [
        ("The  Cat", "cat"),
        ("a T-shirt!", "t shirt"),
        ("It's", "its"),
        ("1,000", "1000"),
        ("yes, please", "yes please"),
        ("4.5.", "4.5"),
        ("Größe", "größe"),
        ("A", "a"),
        ("snake_case", "snake case"),
    ],
)
def test_texts_that_are_the_same(one, other):
    assert normalised(one) == normalised(other) == other


def test_metrics_in_words():
    assert metric_of(Question(question="Q", options=OPTIONS)) == MULTIPLE_CHOICE == "multiple choice"
    assert metric_of(Question(question="Q")) == metric_of(Question(prompt="P")) == VQA
