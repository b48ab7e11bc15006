"""Scores of replies, from 0 to 1: multiple choice and visual question answering."""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from ..families.processing.question import Question

MULTIPLE_CHOICE, VQA = "multiple choice", "VQA"
ARTICLES = ("a", "an", "the")
FEW = 3  # people whose agreement makes an answer right


def metric_of(question: Question) -> str:
    return MULTIPLE_CHOICE if question.options else VQA


def score(reply: str, question: Question) -> float:
    """The score of a reply to a question that has a label."""
    if question.options:
        return float(chosen_option(reply, question.options) == question.answer)
    return soft_accuracy(reply, question.answer)


def chosen_option(reply: str, options: Sequence[str]) -> int | None:
    """The index of the option that a reply chooses, in the first of these forms in which it names one and one only:

    "answer is B"  as LaVIN was trained to say, also with brackets
    "(B)"
    "B", "B. ..."  a letter at the beginning, on its own
    the text       of an option; one that is part of another one's, named there too, does not count

    None, which is never right, where no form does. (The published evaluation of LaVIN knows the first form only, and guesses then.)
    """
    letter = f"([A-{ascii_uppercase[len(options) - 1]}])"
    for form in (rf"(?i:answer is):?\s*\(?{letter}(?!\w)", rf"\({letter}\)", rf"^\s*{letter}(?:[.):,]|\s*$)"):
        named = set(re.findall(form, reply))
        if len(named) == 1:
            return ascii_uppercase.index(named.pop())
    words, texts = f" {normalised(reply)} ", [f" {normalised(text)} " for text in options]
    found = [index for index, text in enumerate(texts) if text.strip() and text in words]
    whole = [i for i in found if not any(texts[i] in texts[j] for j in found if j != i)]
    return whole[0] if len(whole) == 1 else None


def soft_accuracy(reply: str, answers: Sequence[str]) -> float:
    """VQA accuracy: a third for each of three or more people's answers that equals the reply, at most 1; of fewer, whether one does."""
    words = normalised(reply)
    matches = sum(normalised(answer) == words for answer in answers)
    return min(matches / FEW, 1.0) if len(answers) >= FEW else float(matches > 0)


def normalised(text: str) -> str:
    """Lower case, no articles, no punctuation but a number's point, one blank between words."""
    joined = re.sub(r"(?<=\d),(?=\d)|['’]", "", text.lower())  # 1,000; it's
    words = re.sub(r"[^\w\s.]|_|(?<!\d)\.|\.(?!\d)", " ", joined).split()
    return " ".join([word for word in words if word not in ARTICLES] or words)
