"""Make demo.npz: prompts for the demo's model, to run and to verify with. Copy it to start a set of your own.

python calibration/make_demo.py
"""

from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "demo.npz"
VOCABULARY, IMAGE_SIZE, IMAGE_TOKENS = 128, 28, 2  # of the demo's model: eas-export inspect shows them
LENGTHS = (9, 24, 13, 17)  # tokens of each prompt, the image's placeholders included
WITH_IMAGE = (1, 3)  # the rows that have an image
IMAGE_AT = 3  # where its placeholders start: behind the tokens of "Image:"


def main() -> None:
    random = np.random.default_rng(0)
    input_ids = np.zeros((len(LENGTHS), max(LENGTHS)), np.int64)  # padded on the right
    for row, length in enumerate(LENGTHS):
        input_ids[row, :length] = random.integers(1, VOCABULARY, length)
        if row in WITH_IMAGE:
            input_ids[row, IMAGE_AT : IMAGE_AT + IMAGE_TOKENS] = 0
    np.savez(
        OUT,
        input_ids=input_ids,
        prompt_lengths=np.array(LENGTHS),
        pixel_values=random.standard_normal((len(WITH_IMAGE), 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32),
        image_row=np.array(WITH_IMAGE),
    )


if __name__ == "__main__":
    main()
