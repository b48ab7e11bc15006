"""Make the demo's models: a small LLaVA, trained from nothing on the demo's task, and the LLaVA-EAS that a search makes of it.

    eas-export demo --train DIR     what comes with the package, in minutes on two cores; takes scikit-learn

DIR/base is the model with every attention, DIR/checkpoint the one with some skipped; DIR/train.jsonl has what both were trained on and
DIR/held_out/questions.jsonl what neither was; DIR/calibration is what calibration/ has. What the search holds out of DIR/train.jsonl
for its events is new to the adapters and not to the base: losses in search.json are below those of new pictures.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from sentencepiece import SentencePieceTrainer
from torch import Tensor
from torch.func import functional_call

from ..bundle.store import Parameter, write_store
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.hf_clip import clip_keys
from ..checkpoint.hf_files import SENTENCEPIECE
from ..checkpoint.hf_keys import UNTIED_HEAD
from ..checkpoint.keys import expected_shapes
from ..checkpoint.lazy_tensor import LazyTensor
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..families import make_tokenizer
from ..families.contract import Sources
from ..families.llava import LLAVA
from ..families.llava.files import OWN_TOWER, layer_keys
from ..families.llava.load import assemble
from ..families.llava.read import Published, read_config
from ..networks.skeleton import skeleton
from ..networks.vision import TOWERS
from ..search import search
from ..search.examples import Examples, batch_at
from ..search.report import SearchReport
from ..search.subnetwork import Supernet, make_batch
from ..search.tune import Trainer
from . import digits

LAYERS, DIM, HEADS, FFN, VOCABULARY = 12, 64, 4, 192, 160
TOWER_WIDTH, TOWER_BLOCKS, TOWER_HEADS, PATCH, PIXELS = 64, 2, 4, 4, 8
CONFIG = {
    "model_type": "llava_llama",
    "hidden_act": "silu",
    "hidden_size": DIM,
    "intermediate_size": FFN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
    "image_aspect_ratio": None,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -1,
    "mm_vision_tower": "vision_tower",
}
TOWER_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": TOWER_WIDTH,
    "intermediate_size": 2 * TOWER_WIDTH,
    "num_hidden_layers": TOWER_BLOCKS,
    "num_attention_heads": TOWER_HEADS,
    "image_size": PIXELS,
    "patch_size": PATCH,
}
PREPROCESSOR = {"image_mean": [0.3] * 3, "image_std": [0.4] * 3, "size": {"shortest_edge": PIXELS}, "crop_size": PIXELS}
BATCH, RATE, TOWER_STEPS, STEPS = 32, 2e-3, 1000, 1600
QUESTIONS, HELD_OUT_QUESTIONS = 12000, 800
CALIBRATION = 32, 48  # the first pictures, and questions about them
SEARCH = {
    "count": 7,
    "policy": "meter-code",
    "steps": 500,
    "warm_up": 100,
    "every": 5,
    "tune_steps": 1200,
    "batch": 32,
    "learning_rate": 2e-3,
    "kept_rank": 8,
    "skipped_rank": 32,
}


def make_base(out: Path, seed: int, progress: Progress) -> None:
    """All questions and the model with every attention, from one seed, into a new folder."""
    digits.write_questions(out, "train", 0, digits.TRAIN, QUESTIONS, seed)
    digits.write_questions(out / "held_out", "questions", digits.TRAIN, digits.ALL, HELD_OUT_QUESTIONS, seed=0)
    digits.write_questions(out / "calibration", "digits", 0, *CALIBRATION, seed=0)
    train_base(out / "base", out / "train.jsonl", seed, progress, STEPS)


def make_eas(out: Path, seed: int, progress: Progress) -> SearchReport:
    """What a search makes of the base; on the CPU, as the base was trained."""
    options = SEARCH | {"seed": seed, "device": "cpu", "progress": progress}
    return search(out / "base", out / "train.jsonl", out / "checkpoint", **options)


def train_base(folder: Path, data: Path, seed: int, progress: Progress, steps: int) -> None:
    """A LLaVA of random weights, trained as a whole on the questions and rounded to fp16, in its published layout."""
    (folder / "vision_tower").mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", CONFIG),
        ("vision_tower/config.json", TOWER_CONFIG),
        ("vision_tower/preprocessor_config.json", PREPROCESSOR),
    ):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    train_tokenizer(folder / SENTENCEPIECE)
    weights = random_weights(torch.Generator().manual_seed(seed))
    live = {
        key: LazyTensor(tuple(t.shape), t.dtype, f"training: {key}", lambda t=t: t.requires_grad_())
        for key, t in weights.items()
    }
    checkpoint = assemble(Sources(folder), Published(read_config(folder), live, (), (folder,)))
    examples = Examples(data, checkpoint.config, LLAVA, make_tokenizer(checkpoint.tokenizer, checkpoint.config))
    train_tower(checkpoint, weights, seed, progress)
    supernet = Supernet(checkpoint, PRECISIONS["fp32"], examples.limits, torch.device("cpu"))
    trainer = Trainer(weights, RATE, steps)
    with progress.stage("training the base", steps, "steps") as done:
        for step in range(steps):
            batch = make_batch([examples[i] for i in batch_at(step, len(examples), BATCH, seed)], supernet.prefix)
            loss = trainer.step(supernet.loss((), batch))
            if step % 100 == 99:
                progress.note("training the base", {"step": step + 1, "loss": loss})
            done(1)
    parameters = [
        Parameter(key, "float16", tuple(t.shape), "training", lambda t=t: t.detach().half())
        for key, t in weights.items()
    ]
    write_store(folder / "model.safetensors", parameters, lambda count: None)


def train_tower(checkpoint: Checkpoint, weights: dict[str, Tensor], seed: int, progress: Progress) -> None:
    """The tower and the projector alone, to tell digits by the mean of an image's features, as a real model's tower is trained before it
    meets the language model. Pictures are moved by up to a pixel."""
    pictures, labels = digits.load()
    pictures = [LLAVA.prompts.pixels(checkpoint.config, digits.as_image(each)) for each in pictures[: digits.TRAIN]]
    inputs, targets = torch.stack(pictures), torch.from_numpy(labels[: digits.TRAIN])
    random = torch.Generator().manual_seed(seed)
    names = {name: t for name, t in checkpoint.tensors.items() if name.startswith("vision.")}
    own = {key: t for key, t in weights.items() if "vision_tower" in key or "mm_projector" in key}
    own["classifier"] = torch.randn(10, DIM, generator=random).mul_(DIM**-0.5).requires_grad_()
    with skeleton():
        tower = TOWERS["patches"](checkpoint.config.vision, DIM)
    trainer = Trainer(own, RATE, TOWER_STEPS)
    with progress.stage("training the tower", TOWER_STEPS, "steps") as done:
        for _ in range(TOWER_STEPS):
            rows = torch.randint(digits.TRAIN, (2 * BATCH,), generator=random)
            down, right = torch.randint(-1, 2, (2,), generator=random).tolist()
            moved = torch.roll(inputs[rows], (down, right), (2, 3))
            features = functional_call(tower, {n.removeprefix("vision."): t.read() for n, t in names.items()}, (moved,))
            trainer.step(F.cross_entropy(F.linear(features.mean(1), own["classifier"]), targets[rows]))
            done(1)


def random_weights(random: torch.Generator) -> dict[str, Tensor]:
    """Published key -> a new model's tensor, float32: normal numbers that keep the size of what passes through, norms of ones."""
    sizes = {"dim": DIM, "q": DIM, "kv": DIM, "ffn": FFN, "vocab": VOCABULARY, "width": TOWER_WIDTH}
    shapes = expected_shapes(
        {**layer_keys(), **UNTIED_HEAD}, sizes, LAYERS, {"attention": range(LAYERS), "kept": (), "skipped": ()}
    )
    positions = (PIXELS // PATCH) ** 2 + 1
    tower = {"width": TOWER_WIDTH, "patch": PATCH, "positions": positions, "mlp": 2 * TOWER_WIDTH}
    shapes |= {
        OWN_TOWER + key: shape
        for key, shape in expected_shapes(clip_keys("vision_model."), tower, TOWER_BLOCKS).items()
    }

    def tensor(key: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1 and "class_embedding" not in key:
            return torch.ones(shape) if "norm" in key and key.endswith("weight") else torch.zeros(shape)
        fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else DIM
        size = 0.02 if "embed" in key and "patch" not in key else fan_in**-0.5
        if "o_proj" in key or "down_proj" in key:
            size /= (2 * LAYERS) ** 0.5
        return torch.randn(shape, generator=random) * size

    return {key: tensor(key, shape) for key, shape in shapes.items()}


def train_tokenizer(path: Path) -> None:
    """In LLaMA's form, on the task's texts."""
    answers = [str(number) for number in range(-9, 19)] + ["odd", "even", "first", "second", "neither"]
    texts = [part for question in digits.TEMPLATES for part in digits.prompt(question).split("<image>")]
    with open(path, "wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter([*texts * 4, *answers * 8]),
            model_writer=file,
            model_type="bpe",
            vocab_size=VOCABULARY,
            required_chars="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!()/'-",
            user_defined_symbols=["\n"],
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
