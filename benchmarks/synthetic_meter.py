"""Write a METER-EAS checkpoint of a chosen shape in the published format, with random weights.

    python benchmarks/synthetic_meter.py --shape vqa --out meter-vqa      1.3 GB

The folder holds last.ckpt as PyTorch Lightning leaves it, without what the callbacks kept. Weights are drawn so that activations
keep a sensible size through the layers.
"""

import argparse
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from synthetic import Sizes, linear, norm, write_torch

HEADS = {"vqa": "vqa_classifier", "nlvr2": "nlvr2_classifier", "retrieval": "rank_output"}


@dataclass(frozen=True)
class MeterShape:
    """Sizes of a METER-EAS model: those of the published ones by default. `vit_blocks` are those that run."""

    task: str = "vqa"
    dim: int = 768
    heads: int = 12
    layers: int = 6
    ffn: int = 3072
    rank: int = 96
    skipped_rank: int = 144
    vocab: int = 50265
    positions: int = 514
    text_layers: int = 12
    text_ffn: int = 3072
    vit_width: int = 768
    vit_blocks: int = 11
    patch: int = 16
    image: int = 384
    text_length: int = 50
    answers: int = 3129


SHAPES = {
    "vqa": MeterShape(),
    "nlvr2": MeterShape(task="nlvr2", image=288, answers=2),
    "retrieval": MeterShape(task="retrieval", text_length=40, answers=1),
}


def meter_shapes(shape: MeterShape) -> Sizes:
    """Key -> shape of the state dict."""
    dim, width = shape.dim, shape.vit_width
    keys: Sizes = {"token4classifier": (1, 1, dim)}
    keys["token_type_embeddings.weight"] = (3 if shape.task == "nlvr2" else 2, dim)
    keys |= linear("cross_modal_text_transform", dim, dim) | linear("cross_modal_image_transform", dim, width)
    visual = "vit_model.visual"
    keys |= {
        "vit_model.positional_embedding": (77, 512),
        f"{visual}.class_embedding": (width,),
        f"{visual}.positional_embedding": ((shape.image // shape.patch) ** 2 + 1, width),
        f"{visual}.conv1.weight": (width, 3, shape.patch, shape.patch),
    }
    keys |= norm(f"{visual}.ln_pre", width) | norm(f"{visual}.ln_post", width) | norm("vit_model.ln_final", 512)
    for i in range(shape.vit_blocks):
        block = f"{visual}.transformer.resblocks.{i}"
        keys |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        keys |= linear(f"{block}.attn.out_proj", width, width) | norm(f"{block}.ln_1", width)
        keys |= linear(f"{block}.mlp.c_fc", 4 * width, width) | linear(f"{block}.mlp.c_proj", width, 4 * width)
        keys |= norm(f"{block}.ln_2", width)
    text = "text_transformer.embeddings"
    keys |= {
        f"{text}.position_ids": (1, shape.positions),
        f"{text}.word_embeddings.weight": (shape.vocab, dim),
        f"{text}.position_embeddings.weight": (shape.positions, dim),
        f"{text}.token_type_embeddings.weight": (1, dim),
        **norm(f"{text}.LayerNorm", dim),
    }
    for i in range(shape.text_layers):
        layer = f"text_transformer.encoder.layer.{i}"
        keys |= _attention(f"{layer}.attention", dim) | _feed_forward(layer, dim, shape.text_ffn)
    keys |= linear("text_transformer.pooler.dense", dim, dim)
    for stream in ("text", "image"):
        for i in range(shape.layers):
            layer = f"cross_modal_{stream}_layers.{i}"
            keys |= _attention(f"{layer}.attention", dim) | _attention(f"{layer}.crossattention", dim)
            keys |= _feed_forward(layer, dim, shape.ffn)
            for part in ("attention", "crossattention", "intermediate"):
                keys |= _adapter(f"{layer}.{part}.adapter", dim, shape.rank, "C")
            for part in ("self", "cross"):
                keys |= _adapter(f"{layer}.adapter_{part}_attn", dim, shape.skipped_rank, "AC")
        keys |= linear(f"cross_modal_{stream}_pooler.dense", dim, dim)
    head = HEADS[shape.task]
    if shape.task == "retrieval":
        return keys | linear("itm_score.fc", 2, 2 * dim) | linear(head, 1, 2 * dim)
    width = (4 if shape.task == "nlvr2" else 2) * dim
    return (
        keys
        | linear(f"{head}.0", 2 * dim, width)
        | norm(f"{head}.1", 2 * dim)
        | linear(f"{head}.3", shape.answers, 2 * dim)
    )


@dataclass(frozen=True)
class MeterState:
    """What training leaves in the file: its tensors' keys and shapes, those of them that are not drawn, and more settings."""

    sizes: Sizes
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)


def write_meter(
    folder: Path, shape: MeterShape, seed: int = 0, skeleton: bool = False, state: MeterState | None = None
) -> Path:
    """last.ckpt of this shape in the folder. A skeleton has holes for the tensors. state: another system's than EAS's."""
    random, state = torch.Generator().manual_seed(seed), state or MeterState(meter_shapes(shape))

    def draw(key: str, size: tuple[int, ...]) -> torch.Tensor:
        if key.endswith("position_ids"):
            return torch.arange(size[1])[None]
        values = torch.randn(size, generator=random)
        if key.endswith("bias"):
            return 0.1 * values
        if len(size) == 1:  # a norm's weight, or the class embedding
            return 1 + 0.1 * values
        return (
            values if "embedding" in key or key == "token4classifier" else values / torch.Size(size[1:]).numel() ** 0.5
        )

    settings = {"num_heads": shape.heads, "max_text_len": shape.text_length, "num_top_layer": shape.layers}
    settings |= state.settings
    around = {"epoch": 9, "global_step": 1, "pytorch-lightning_version": "1.3.2"}
    around |= {"hparams_name": "config", "hyper_parameters": {"config": settings}}
    folder.mkdir(parents=True, exist_ok=True)
    if skeleton:
        wrap = lambda tensors: {"state_dict": tensors} | around
        write_torch(folder / "last.ckpt", state.sizes, torch.float32, None, wrap)
    else:
        weights = OrderedDict((key, draw(key, size)) for key, size in state.sizes.items())
        torch.save({"state_dict": weights | state.values} | around, folder / "last.ckpt")
    return folder / "last.ckpt"


def _attention(name: str, width: int) -> Sizes:
    parts = [
        linear(f"{name}.{part}", width, width) for part in ("self.query", "self.key", "self.value", "output.dense")
    ]
    return {key: size for part in parts for key, size in part.items()} | norm(f"{name}.output.LayerNorm", width)


def _feed_forward(name: str, width: int, inner: int) -> Sizes:
    parts = linear(f"{name}.intermediate.dense", inner, width) | linear(f"{name}.output.dense", width, inner)
    return parts | norm(f"{name}.output.LayerNorm", width)


def _adapter(name: str, width: int, rank: int, inner: str) -> Sizes:
    keys = {f"{name}.conv_{letter}.weight": (rank, width, 1) for letter in inner}
    keys |= {f"{name}.conv_{letter}.bias": (rank,) for letter in inner}
    keys |= {f"{name}.conv_{letter}.weight": (width, rank // 2, 1) for letter in "BD"}
    return (
        keys | {f"{name}.conv_{letter}.bias": (width,) for letter in "BD"} | linear(f"{name}.expert_weights", 2, width)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="vqa")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(write_meter(given.out, SHAPES[given.shape], given.seed))


if __name__ == "__main__":
    main()
