"""A plain LLaVA of random weights and questions to train it on; a tokenizer and questions for text models."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file
from synthetic_llava import LlavaShape, write_llava

SHAPE = LlavaShape(dim=32, layers=4, ffn=48, vocab=128, search=True, form="safetensors", heads=4, kv_heads=2)
OPTIONS = dict(steps=12, warm_up=4, every=2, tune_steps=6, batch=4, kept_rank=4, skipped_rank=8, learning_rate=1e-2)


def write_plain(folder: Path, tokenizer: Path) -> Path:
    write_llava(folder, SHAPE, seed=1)
    weights = folder / "model.safetensors"
    tensors = {key: t for key, t in load_file(weights).items() if "_adapter" not in key and "adapter_" not in key}
    save_file(tensors, weights, {"format": "pt"})
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    return folder


def write_questions(folder: Path, count: int = 24) -> Path:
    """With no image, one, or two, with options and without, with labels of all kinds."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(count):
        images = [f"{number}-{i}.png" for i in range(number % 3)]
        for name in images:
            Image.fromarray(random.integers(0, 255, (14, 14, 3), np.uint8)).save(folder / name)
        text = "What is it" + "?" * (1 + number % 2)
        labels = {"answer": ["a cat", "cat", "a cat"]} if number % 4 else {"options": ["a cat", "dog"], "answer": "dog"}
        lines.append(json.dumps({"question": text, "image": images} | labels))
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


CHARACTERS = [chr(code) for code in range(32, 127)]
TEXT_VOCABULARY = 3 + len(CHARACTERS) + 10  # padded, as published ones are


def write_text_tokenizer(folder: Path) -> Path:
    """A tokenizer of single characters, with a chat template, beside a text model. Returns the folder."""
    from tokenizers import Tokenizer, decoders, models

    names = ("<unk>", "<s>", "</s>")
    vocabulary = {token: number for number, token in enumerate((*names, *CHARACTERS))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([*names])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    settings |= {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    template = "<s>{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template + "{% if add_generation_prompt %}assistant: {% endif %}")
    return folder


def write_text_questions(path: Path, count: int = 24) -> Path:
    """With options and without."""
    lines = []
    for number in range(count):
        labels = {"answer": "yes"} if number % 3 else {"options": ["cat", "dog"], "answer": "A"}
        lines.append(json.dumps({"question": f"Is {number} it?"} | labels))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
