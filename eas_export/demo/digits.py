"""The demo's task: questions about one or two handwritten digits.

Pictures: scikit-learn's `load_digits`, 1797 of 8 x 8 pixels, of which the last ones by an order of chance are held out: no model sees
them in training. Prompts are LLaVA's, without the sentence that its conversation begins with.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UserError
from ..system.packages import install_command

if TYPE_CHECKING:
    from PIL.Image import Image

ALL, TRAIN = 1797, 1597  # pictures; those behind TRAIN are held out
SPLIT_SEED = 0  # of the order of chance: the same whatever else is drawn
PLACES = ("first", "second")

# A question about two digits, and its answer
TEMPLATES: dict[str, Callable[[int, int], str]] = {
    "Which digit is the first one?": lambda a, b: str(a),
    "Which digit is the second one?": lambda a, b: str(b),
    "Is the first one odd or even?": lambda a, b: ("even", "odd")[a % 2],
    "Is the second one odd or even?": lambda a, b: ("even", "odd")[b % 2],
    "Which one is larger?": lambda a, b: "neither" if a == b else PLACES[b > a],
    "What is the larger digit?": lambda a, b: str(max(a, b)),
    "What is the sum?": lambda a, b: str(a + b),
    "What is the first one without the second one?": lambda a, b: str(a - b),
}


def load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures [1797, 8, 8] and the digits on them [1797], in the order whose end is held out. Raises UserError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        what = "scikit-learn, whose pictures the demo is trained on, is not installed"
        raise UserError(what, where="--train", fix=install_command("demo-training", "scikit-learn")) from None

    found = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(found.target))
    return (found.images[order] * 15).astype(np.uint8), found.target[order].astype(np.int64)


def as_image(picture: NDArray[np.uint8]) -> "Image":
    """[8, 8] -> in RGB"""
    from PIL import Image

    return Image.fromarray(np.repeat(picture[:, :, None], 3, 2))


def prompt(question: str) -> str:
    return f"USER: <image> <image>\n{question} ASSISTANT:"


def write_questions(folder: Path, name: str, first: int, last: int, count: int, seed: int) -> Path:
    """`count` questions about the pictures from `first` to `last` - 1, as <name>.jsonl, and the pictures below `images`."""
    pictures, digits = load()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    texts, lines, used = list(TEMPLATES), [], set()
    for _ in range(count):
        a, b = (int(i) for i in random.integers(first, last, 2))
        question = texts[random.integers(len(texts))]
        answer = TEMPLATES[question](int(digits[a]), int(digits[b]))
        images = [f"images/{i:04d}.png" for i in (a, b)]
        lines.append(json.dumps({"prompt": prompt(question), "image": images, "answer": answer}))
        used |= {a, b}
    for i in sorted(used):
        as_image(pictures[i]).save(folder / "images" / f"{i:04d}.png", optimize=True)
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
