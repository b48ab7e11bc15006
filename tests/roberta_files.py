"""A small RoBERTa tokenizer, trained on a few words: vocab.json and merges.txt, or tokenizer.json."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXTS = [
    "what is the cat doing on the table?",
    "two dogs are playing with a red frisbee",
    "is there a dog in the left image?",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def write_tokenizer(folder: Path, size: int = 330) -> Path:
    """vocab.json with `size` tokens at most, <mask> the last as in RoBERTa's, and merges.txt. Fewer than 330 have not every byte."""
    folder.mkdir(parents=True, exist_ok=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if size >= 330 else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = level
    options = {"special_tokens": SPECIAL, "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(TEXTS * 9, trainers.BpeTrainer(vocab_size=size - 1, **options))
    tokenizer.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"<mask>": len(vocabulary)}), "utf-8")
    return folder


def write_tokenizer_json(folder: Path, lists: Path) -> Path:
    """The same tokenizer as transformers saves it, with <mask> as in roberta-base's own file: it takes the space before it."""
    from transformers import RobertaTokenizer

    RobertaTokenizer.from_pretrained(str(lists)).save_pretrained(str(folder))
    whole = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    for token in whole["added_tokens"]:
        token["lstrip"] = token["content"] == "<mask>"
    (folder / "tokenizer.json").write_text(json.dumps(whole), "utf-8")
    return folder
