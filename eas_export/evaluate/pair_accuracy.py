"""Task accuracy of a cross-encoder, the reference's and the bundle's: answers to questions, and recall of retrieval."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .accuracy import Accuracy, Score
from .scoring import VQA, soft_accuracy

TRUE_OR_FALSE = "true or false"
DEPTHS = (1, 5, 10)  # k of recall@k


def answer_accuracy(
    labels: Sequence[Sequence[str]], words: Sequence[str], metric: str, reference: Tensor, bundle: Mapping[str, Tensor]
) -> Accuracy:
    """Score the likeliest answers to questions that have labels.

    labels             of each question, what people answered
    words              the answers in the order of the logits
    reference, bundle  logits [B, answers], by backend for the bundle
    """

    def right(logits: Tensor) -> float:
        said = [words[best] for best in logits.argmax(-1).tolist()]
        return sum(map(soft_accuracy, said, labels)) / len(labels)

    return Accuracy(
        metric=metric,
        questions=len(labels),
        reference=right(reference),
        bundle={name: right(logits) for name, logits in bundle.items()},
        agree={name: _same(logits, reference) for name, logits in bundle.items()},
    )


def recall_accuracy(image_of: Sequence[int], reference: Tensor, bundle: Mapping[str, Tensor]) -> Accuracy:
    """Recall at 1, 5 and 10 both ways: of texts whose image, and of images of which a text, is among the k that score highest.

    image_of           each text's image
    reference, bundle  scores [texts, images], by backend for the bundle
    """
    belongs = torch.tensor(image_of)[:, None] == torch.arange(reference.shape[1])  # [texts, images]
    scores = [
        Score(
            metric=f"recall@{k} of {what}",
            reference=recall(reference, belongs, k, dim),
            bundle={name: recall(each, belongs, k, dim) for name, each in bundle.items()},
        )
        for what, dim in (("images", 1), ("texts", 0))
        for k in DEPTHS
    ]
    agree = {name: _same(each, reference) for name, each in bundle.items()}
    return Accuracy(**scores[0].model_dump(), questions=len(image_of), agree=agree, others=tuple(scores[1:]))


def recall(scores: Tensor, belongs: Tensor, k: int, dim: int) -> float:
    """The share of texts (dim 1) or images (dim 0) that find one of their own among their k best."""
    best = scores.topk(min(k, scores.shape[dim]), dim).indices
    return belongs.gather(dim, best).any(dim).float().mean().item()


def _same(one: Tensor, other: Tensor) -> float:
    return (one.argmax(-1) == other.argmax(-1)).float().mean().item()


# Task -> the name of its metric
METRICS: Mapping[str, str] = {"vqa": VQA, "nlvr2": TRUE_OR_FALSE}
