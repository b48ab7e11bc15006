"""Train the tokenizer of the tiny LaVIN model, 128 pieces in LLaMA's form, on the texts of questions.jsonl.

python tests/tiny/prompts/tokenizer.py tests/tiny/lavin/weights/tokenizer.model
"""

import json
import sys
from pathlib import Path

from sentencepiece import SentencePieceTrainer

VOCABULARY = 128
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!()/'-"


def main(out: Path) -> None:
    lines = [json.loads(line) for line in (Path(__file__).parent / "questions.jsonl").read_text("utf-8").splitlines()]
    texts = [
        text for line in lines for value in line.values() for text in (value if isinstance(value, list) else [value])
    ]
    with open(out, "wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter([*texts, "Image: N/A", "Response:"]),
            model_writer=file,
            model_type="bpe",
            vocab_size=VOCABULARY,
            required_chars=CHARACTERS,
            user_defined_symbols=["\n"],  # LLaMA's tokenizer has it as a byte
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
