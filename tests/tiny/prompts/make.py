"""Make the prompt sets of the tiny LaVIN model: the pictures of questions.jsonl, labelled.jsonl with the right answers, and token_ids.npz.

python tests/tiny/prompts/make.py
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
VOCABULARY, IMAGE_SIZE, IMAGE_TOKENS = 128, 28, 2  # as eas-export inspect shows them
LENGTHS = (9, 24, 13, 17)  # tokens of each prompt, the image's placeholders included
WITH_IMAGE = (1, 3)  # the rows that have an image
ANSWERS = ("A", "a circle", 0, 1)  # to questions.jsonl's questions with options: a letter, a text, two indices
MORE = {
    "question": "Which colour is the circle?",
    "image": "images/circle.png",
    "answer": ["blue", "navy", "blue", "dark blue", "blue"],  # as five people said
}
IMAGE_AT = 3  # where its placeholders start: behind the tokens of "Image:"


def draw_pictures(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    circle = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(circle).ellipse((30, 15, 90, 75), fill="navy")
    circle.save(folder / "circle.png")
    bars = Image.new("RGB", (90, 120), "white")
    for left, height in ((10, 40), (38, 90), (66, 65)):
        ImageDraw.Draw(bars).rectangle((left, 110 - height, left + 14, 110), fill="darkred")
    bars.save(folder / "bars.png")


def write_labelled(path: Path, unlabelled: Path) -> None:
    questions = [json.loads(line) for line in unlabelled.read_text("utf-8").splitlines()]
    asked = [question for question in questions if "options" in question]
    labelled = [question | {"answer": answer} for question, answer in zip(asked, ANSWERS, strict=True)]
    path.write_text("".join(json.dumps(question) + "\n" for question in [*labelled, MORE]), "utf-8")


def write_token_ids(path: Path) -> None:
    random = np.random.default_rng(0)
    input_ids = np.zeros((len(LENGTHS), max(LENGTHS)), np.int64)  # padded on the right
    for row, length in enumerate(LENGTHS):
        input_ids[row, :length] = random.integers(1, VOCABULARY, length)
        if row in WITH_IMAGE:
            input_ids[row, IMAGE_AT : IMAGE_AT + IMAGE_TOKENS] = 0
    np.savez(
        path,
        input_ids=input_ids,
        prompt_lengths=np.array(LENGTHS),
        pixel_values=random.standard_normal((len(WITH_IMAGE), 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32),
        image_row=np.array(WITH_IMAGE),
    )


if __name__ == "__main__":
    draw_pictures(HERE / "images")
    write_labelled(HERE / "labelled.jsonl", HERE / "questions.jsonl")
    write_token_ids(HERE / "token_ids.npz")
