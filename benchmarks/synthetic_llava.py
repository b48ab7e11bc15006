"""Write a LLaVA-EAS checkpoint of a chosen shape in the published format, with random weights.

    python benchmarks/synthetic_llava.py --shape 1B --out llava-1B    3 GB
    python benchmarks/synthetic_llava.py --shape 7B --out llava-7B    13 GB

The folder holds config.json, pytorch_model-*.bin with their index, and vision_tower/, as training leaves them.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from synthetic import Sizes, linear, norm, write_torch


@dataclass(frozen=True)
class LlavaShape:
    """Sizes of a LLaVA-EAS model. kept_rank, skipped_rank: of its adapters; search: both kinds and attentions in every layer, as before
    fine-tuning; form: "bin", "safetensors" or "shards" (of safetensors)"""

    dim: int = 64
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    ffn: int = 96
    vocab: int = 96
    skip: tuple[int, ...] = ()
    kept_rank: int = 4
    skipped_rank: int = 8
    clip_width: int = 64
    clip_blocks: int = 3
    clip_heads: int = 1
    clip_mlp: int = 128
    clip_patch: int = 7
    clip_image: int = 14
    activation: str = "quick_gelu"
    tied: bool = False
    theta: float = 10000.0
    norm_eps: float = 1e-5
    search: bool = False
    form: str = "bin"
    dtype: torch.dtype = torch.float32


_REAL = LlavaShape(  # what all of them have: CLIP's ViT-L/14 of 336 pixels, 576 tokens an image
    vocab=32000,
    kept_rank=128,
    skipped_rank=256,
    clip_width=1024,
    clip_blocks=24,
    clip_heads=16,
    clip_mlp=4096,
    clip_patch=14,
    clip_image=336,
    form="shards of bin",
    dtype=torch.bfloat16,
)
LLAVA_SHAPES = {
    "1B": replace(
        _REAL, dim=2048, layers=22, heads=16, kv_heads=4, ffn=5632, skip=(12, 13, 15, 16, 18, 19, 20, 21)
    ),  # keys and values in groups
    "7B": replace(_REAL, dim=4096, layers=32, heads=32, kv_heads=32, ffn=11008, skip=tuple(range(20, 32))),
}


def decoder_shapes(shape: LlavaShape) -> Sizes:
    """Key -> shape of the language model, its adapters and the projector."""
    d, f, kv = shape.dim, shape.ffn, shape.kv_heads * (shape.dim // shape.heads)
    sizes: Sizes = {"model.embed_tokens.weight": (shape.vocab, d), "model.norm.weight": (d,)}
    sizes |= {} if shape.tied else {"lm_head.weight": (shape.vocab, d)}
    for i in range(shape.layers):
        name = f"model.layers.{i}"
        if shape.search or i not in shape.skip:
            sizes |= {f"{name}.self_attn.{p}_proj.weight": (n, d) for p, n in zip("qkvo", (d, kv, kv, d))}
            sizes |= {f"{name}.self_attn.rotary_emb.inv_freq": (d // shape.heads // 2,)}
            sizes |= _adapter(f"{name}.adapter_attn", d, shape.kept_rank, "A")
        if shape.search or i in shape.skip:
            sizes |= _adapter(f"{name}.replaced_adapter", d, shape.skipped_rank, "AC")
            sizes |= {f"{name}.replaced_adapter.expert_weights.bias": (2,)}
        sizes |= {f"{name}.mlp.{p}_proj.weight": s for p, s in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f)))}
        sizes |= {f"{name}.{norm}_layernorm.weight": (d,) for norm in ("input", "post_attention")}
    return sizes | linear("model.mm_projector.0", d, shape.clip_width) | linear("model.mm_projector.2", d, d)


def tower_shapes(shape: LlavaShape) -> Sizes:
    """Key -> shape of the CLIPVisionModel."""
    w, m, positions = shape.clip_width, shape.clip_mlp, (shape.clip_image // shape.clip_patch) ** 2 + 1
    sizes: Sizes = {
        "vision_model.embeddings.class_embedding": (w,),
        "vision_model.embeddings.patch_embedding.weight": (w, 3, shape.clip_patch, shape.clip_patch),
        "vision_model.embeddings.position_embedding.weight": (positions, w),
    }
    sizes |= norm("vision_model.pre_layrnorm", w) | norm("vision_model.post_layernorm", w)
    for i in range(shape.clip_blocks):
        block = f"vision_model.encoder.layers.{i}"
        for part in ("q", "k", "v", "out"):
            sizes |= linear(f"{block}.self_attn.{part}_proj", w, w)
        sizes |= linear(f"{block}.mlp.fc1", m, w) | linear(f"{block}.mlp.fc2", w, m)
        sizes |= norm(f"{block}.layer_norm1", w) | norm(f"{block}.layer_norm2", w)
    return sizes


def config_of(shape: LlavaShape) -> dict[str, object]:
    return {
        "model_type": "llava_llama",
        "hidden_act": "silu",
        "hidden_size": shape.dim,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "num_hidden_layers": shape.layers,
        "rms_norm_eps": shape.norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.theta,
        "tie_word_embeddings": shape.tied,
        "vocab_size": shape.vocab,
        "image_aspect_ratio": "pad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "vision_tower",
    }


def tower_config_of(shape: LlavaShape) -> dict[str, object]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": shape.clip_width,
        "intermediate_size": shape.clip_mlp,
        "num_hidden_layers": shape.clip_blocks,
        "num_attention_heads": shape.clip_heads,
        "image_size": shape.clip_image,
        "patch_size": shape.clip_patch,
        "hidden_act": shape.activation,
        "layer_norm_eps": 1e-5,
    }


def write_llava(out: Path, shape: LlavaShape, seed: int = 0, skeleton: bool = False) -> Path:
    """Write the checkpoint; `out` must not exist. A skeleton keeps holes for the tensors (torch files only)."""
    random = None if skeleton else torch.Generator().manual_seed(seed)
    tower = out / "vision_tower"
    tower.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config_of(shape)))
    (tower / "config.json").write_text(json.dumps(tower_config_of(shape)))
    sizes = decoder_shapes(shape)
    if shape.form == "shards of bin":
        names = list(sizes)
        half = {name: number for number, part in enumerate((names[::2], names[1::2]), start=1) for name in part}
        files = {name: f"pytorch_model-0000{number}-of-00002.bin" for name, number in half.items()}
        (out / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
        for file in sorted(set(files.values())):
            write_torch(out / file, {n: s for n, s in sizes.items() if files[n] == file}, shape.dtype, random)
    else:
        write_torch(out / "pytorch_model.bin", sizes, shape.dtype, random)
    write_torch(tower / "pytorch_model.bin", tower_shapes(shape), torch.float32, random)
    if shape.form in ("safetensors", "shards"):
        as_safetensors(out, shape.form == "shards")
        as_safetensors(tower, False)
    return out


def as_safetensors(folder: Path, in_shards: bool) -> None:
    """Write pytorch_model.bin anew as model.safetensors, in one file or in two shards with an index."""
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    if not in_shards:
        save_file(tensors, folder / "model.safetensors")
        return
    weight_map = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: t for name, t in tensors.items() if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _adapter(name: str, dim: int, rank: int, inner: str) -> Sizes:
    """Without the router's bias, which only a replaced_adapter has."""
    sizes: Sizes = {f"{name}.expert_weights.weight": (2, dim)}
    for letter in inner:
        sizes |= {f"{name}.conv_{letter}.weight": (rank, dim, 1), f"{name}.conv_{letter}.bias": (rank,)}
    for letter in "BD":
        sizes |= {f"{name}.conv_{letter}.weight": (dim, rank // 2, 1), f"{name}.conv_{letter}.bias": (dim,)}
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=LLAVA_SHAPES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skeleton", action="store_true", help="headers only: the tensors are holes in the files")
    given = parser.parse_args()
    print(write_llava(given.out, LLAVA_SHAPES[given.shape], given.seed, given.skeleton))


if __name__ == "__main__":
    main()
