"""The files that README and docs speak of, small: checkpoints with the published layers and skip lists, images, questions, arrays."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from roberta_files import write_tokenizer
from safetensors.torch import save_file
from synthetic import SHAPES, write_checkpoint
from synthetic_llava import LlavaShape, write_llava
from synthetic_meter import MeterShape, write_meter

from eas_export.checkpoint.hf_keys import from_config
from eas_export.demo import BASE
from eas_export.families.hf.load import read_config

ROOT = Path(__file__).parent.parent
TOKENIZER = BASE / "tokenizer.model"
VOCAB = json.loads((BASE / "config.json").read_text())["vocab_size"]
LAVIN = replace(SHAPES["7B"], dim=32, heads=4, vocab=VOCAB, multiple_of=16, clip_width=64, clip_blocks=4, clip_image=28)
LLAVA = LlavaShape(dim=32, layers=32, vocab=VOCAB, skip=tuple(range(20, 32)), form="safetensors")
PLAIN = replace(LLAVA, layers=4, skip=(), search=True)
METER = MeterShape(
    dim=48, heads=12, ffn=48, rank=6, skipped_rank=8, vocab=100, positions=54, text_layers=2, text_ffn=48, vit_width=64
)
METER = replace(METER, vit_blocks=2, image=32, patch=16, answers=7)
TASKS = {
    "nlvr2": replace(METER, task="nlvr2", answers=2),
    "retrieval": replace(METER, task="retrieval", answers=1, text_length=40),
}
ANSWERS = ["yes", "no", "a cat", "a dog", "red", "2", "outside"]


def write_files(folder: Path) -> None:
    """Everything that a command on a page reads, under the name that it has there."""
    write_checkpoint(folder / "data", LAVIN)
    write_checkpoint(folder / "task2", LAVIN)
    adapters = folder / "task2" / "checkpoint-19.pth"
    adapters.unlink()
    write_checkpoint(folder / "other", LAVIN, seed=1)
    shutil.move(folder / "other" / "checkpoint-19.pth", adapters)
    for name in ("data", "task2"):
        shutil.copyfile(TOKENIZER, folder / name / "weights" / "tokenizer.model")
        (folder / name / "clip" / "ViT.pth").rename(folder / name / "clip" / "ViT-L-14.pt")
    write_llava(folder / "llava-eas", LLAVA)
    shutil.move(folder / "llava-eas" / "vision_tower", folder / "clip-vit-large-patch14-336")
    write_llava(folder / "llava", PLAIN)
    for name in ("llava-eas", "llava"):
        shutil.copyfile(TOKENIZER, folder / name / "tokenizer.model")
    write_text_model(folder / "SmolLM2-135M")
    (folder / "llama-3.2-1b-config").mkdir()
    shutil.copyfile(ROOT / "tests" / "hub" / "llama-3.2-1b.json", folder / "llama-3.2-1b-config" / "config.json")
    write_meter(folder, METER).rename(folder / "meter-vqa.ckpt")
    for task, shape in TASKS.items():
        write_meter(folder, shape).rename(folder / f"meter-{task}.ckpt")
    write_tokenizer(folder / "roberta-base", METER.vocab)
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    for name in ("recipes", "calibration"):
        shutil.copytree(ROOT / name, folder / name)
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in ("cat.png", "dog.png", "left.png", "right.png", "photos/1.png", "photos/2.png"):
        Image.fromarray(random.integers(0, 255, (28, 28, 3), np.uint8)).save(folder / name)
    question = {"question": "What is it?", "options": ["a cat", "a dog"], "image": "cat.png", "answer": "a cat"}
    for name, count in (("questions.jsonl", 2), ("train.jsonl", 24)):
        (folder / name).write_text(f"{json.dumps(question)}\n" * count)
    (folder / "vqa.jsonl").write_text(json.dumps({"question": "What is it?", "image": "cat.png", "answer": "a cat"}))
    (folder / "captions.txt").write_text("a cat\na dog\n")
    (folder / "long.jsonl").write_text(json.dumps({"prompt": "What is shown? " * 100}))
    pixels = random.standard_normal((2, 3, METER.image, METER.image)).astype(np.float32)
    np.savez(folder / "pairs.npz", text_ids=[[0, 5, 6, 2], [0, 7, 2, 1]], pixel_values=pixels)
    np.savez(folder / "x.npz", input_ids=[[5, 6, 7]])


def write_text_model(folder: Path) -> None:
    """A folder with SmolLM2's config.json, but small, and random weights."""
    folder.mkdir()
    config = json.loads((ROOT / "tests" / "hub" / "smollm2-135m.json").read_text())
    config |= {"hidden_size": 36, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": VOCAB}
    (folder / "config.json").write_text(json.dumps(config))
    random = torch.Generator().manual_seed(0)
    shapes = from_config(read_config(folder), folder).items()
    tensors = {key: torch.randn(tensor.shape, generator=random) * 0.2 for key, tensor in shapes}
    save_file(tensors, folder / "model.safetensors")
    shutil.copyfile(TOKENIZER, folder / "tokenizer.model")
