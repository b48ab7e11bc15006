"""Write a LaVIN-EAS checkpoint of a chosen shape in the published format, with random weights.

    python benchmarks/synthetic.py --shape 1B --out lavin-1B               3.2 GB
    python benchmarks/synthetic.py --shape 7B --shards 2 --out lavin-7B    14.1 GB
    python benchmarks/synthetic.py --shape demo --out tests/tiny/lavin --seed 7

The folder holds weights/<name>/{params.json, consolidated.NN.pth}, clip/*.pth and checkpoint-19.pth, as training leaves them.
Weights are drawn so that activations keep a sensible size through the layers. Files are written with holes for their tensors,
which are then filled through a mapping, one at a time: at most one tensor is in memory.
"""

import argparse
import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

GAINS = {"expert_weights": 3.0, "lora_B": 0.05}
SHARD_DIMS = {"tok_embeddings": 1, "output": 0, "wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "wo": 1, "w2": 1}


@dataclass(frozen=True)
class Shape:
    """Sizes of a LaVIN-EAS model; `rank` is adapter_dim, the replaced adapters have four times that."""

    name: str
    dim: int
    layers: int
    heads: int
    vocab: int
    multiple_of: int
    rank: int
    skip: tuple[int, ...]
    hidden_proj: int = 128
    clip_width: int = 1024
    clip_blocks: int = 24
    clip_patch: int = 14
    clip_image: int = 224
    shards: int = 1
    temperature: float = 10.0
    scale: float = 1.0
    norm_eps: float = 1e-6
    visual_adapter_type: str = "router"

    @property
    def ffn(self) -> int:
        return -(-int(8 * self.dim / 3) // self.multiple_of) * self.multiple_of


_TINY = dict(
    dim=64,
    layers=8,
    heads=4,
    vocab=128,
    multiple_of=32,
    rank=8,
    hidden_proj=16,
    clip_width=64,
    clip_blocks=8,
    clip_image=28,
)
_PUBLISHED_SKIP = (24, 23, 19, 21, 28, 31, 22, 30, 25, 26, 29, 27)
SHAPES = {
    "demo": Shape("tiny", skip=(6, 3, 5), **_TINY),
    "1B": Shape(
        "1B", dim=2048, layers=22, heads=16, vocab=32000, multiple_of=256, rank=8, skip=(12, 13, 15, 16, 18, 19, 20, 21)
    ),
    "7B": Shape("7B", dim=4096, layers=32, heads=32, vocab=32000, multiple_of=256, rank=8, skip=_PUBLISHED_SKIP),
    "13B": Shape(
        "13B", dim=5120, layers=40, heads=40, vocab=32000, multiple_of=256, rank=8, skip=tuple(range(28, 40)), shards=2
    ),
}


Sizes = dict[str, tuple[int, ...]]  # key -> shape


def linear(name: str, out: int, into: int) -> Sizes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Sizes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def llama_shapes(shape: Shape) -> Sizes:
    """Key -> shape of the unsharded LLaMA checkpoint."""
    d, f = shape.dim, shape.ffn
    result: Sizes = {
        "tok_embeddings.weight": (shape.vocab, d),
        "norm.weight": (d,),
        "output.weight": (shape.vocab, d),
    }
    for i in range(shape.layers):
        result |= {f"layers.{i}.attention.{w}.weight": (d, d) for w in ("wq", "wk", "wv", "wo")}
        result |= {
            f"layers.{i}.feed_forward.{w}.weight": s for w, s in (("w1", (f, d)), ("w2", (d, f)), ("w3", (f, d)))
        }
        result |= {f"layers.{i}.{n}.weight": (d,) for n in ("attention_norm", "ffn_norm")}
    return result | {"rope.freqs": (d // shape.heads // 2,)}


def adapter(prefix: str, dim: int, rank: int, inner: str) -> Sizes:
    """Key -> shape of one adapter; `inner` are the letters of its matrices that read the input."""
    result: Sizes = {}
    for letter in inner:
        result |= {f"{prefix}.conv_{letter}.weight": (rank, dim, 1), f"{prefix}.conv_{letter}.bias": (rank,)}
    for letter in "BD":
        result |= {f"{prefix}.conv_{letter}.weight": (dim, rank // 2, 1), f"{prefix}.conv_{letter}.bias": (dim,)}
    return result | linear(f"{prefix}.expert_weights", 2, dim)


def tower_adapters(shape: Shape) -> Sizes:
    """Key -> shape of the adapters in the tower."""
    result: Sizes = {}
    for i in range(shape.clip_blocks):
        block = f"module.backbone.visual.transformer.resblocks.{i}"
        result |= adapter(f"{block}.adapter_attn", shape.clip_width, shape.rank, "A")
        if shape.visual_adapter_type != "router":
            result |= adapter(f"{block}.adapter_mlp", shape.clip_width, shape.rank, "A")
    return result


def image_inputs(shape: Shape) -> Sizes:
    """Key -> shape of the projector and the modality token, which are trained in every system."""
    p, w, d = shape.hidden_proj, shape.clip_width, shape.dim
    result = linear("module.adapter_proj.conv_A", p, w) | linear("module.adapter_proj.conv_B", d, p)
    return result | {"module.adapter_modality_embedding.weight": (2, d)}


@dataclass(frozen=True)
class Trained:
    """What training leaves in the adapter checkpoint: its tensors' keys and shapes, and the arguments."""

    sizes: Sizes
    args: dict


def eas(shape: Shape) -> Trained:
    sizes: Sizes = {}
    for i in range(shape.layers):
        sizes |= adapter(f"module.layers.{i}.adapter_attn", shape.dim, shape.rank, "A")
        sizes |= adapter(f"module.layers.{i}.replaced_adapter", shape.dim, 4 * shape.rank, "AC")
    return Trained(sizes | tower_adapters(shape) | image_inputs(shape), args_of(shape))


def clip_shapes(shape: Shape) -> Sizes:
    """Key -> shape of the CLIP tower's state dict."""
    w, positions = shape.clip_width, (shape.clip_image // shape.clip_patch) ** 2 + 1
    result: Sizes = {
        "visual.class_embedding": (w,),
        "visual.positional_embedding": (positions, w),
        "visual.proj": (w, w // 2),
        "visual.conv1.weight": (w, 3, shape.clip_patch, shape.clip_patch),
    }
    result |= norm("visual.ln_pre", w) | norm("visual.ln_post", w)
    for i in range(shape.clip_blocks):
        block = f"visual.transformer.resblocks.{i}"
        result |= {f"{block}.attn.in_proj_weight": (3 * w, w), f"{block}.attn.in_proj_bias": (3 * w,)}
        result |= linear(f"{block}.attn.out_proj", w, w)
        result |= linear(f"{block}.mlp.c_fc", 4 * w, w) | linear(f"{block}.mlp.c_proj", w, 4 * w)
        result |= norm(f"{block}.ln_1", w) | norm(f"{block}.ln_2", w)
    return result


def args_of(shape: Shape) -> dict:
    """EAS's training arguments."""
    return {
        "llm_model": shape.name,
        "adapter_type": "attn",
        "visual_adapter_type": shape.visual_adapter_type,
        "adapter_dim": shape.rank,
        "hidden_proj": shape.hidden_proj,
        "temperature": shape.temperature,
        "n_prompt": shape.clip_blocks // 4,
        "adapter_scale": shape.scale,
        "max_seq_len": 512,
        "skip_list": str(list(shape.skip)),
        "use_vicuna": False,
        "bits": "16bit",
        "prompt_format": "QCM-ALE",
    }


def write_checkpoint(
    out: Path, shape: Shape, seed: int = 0, skeleton: bool = False, trained: Trained | None = None
) -> Path:
    """Write the checkpoint; `out` must not exist. A skeleton keeps the holes for the tensors. trained: another system's than EAS's."""
    random = torch.Generator().manual_seed(seed)
    weights = out / "weights" / shape.name
    weights.mkdir(parents=True)
    (out / "clip").mkdir()
    params = {
        "dim": shape.dim,
        "multiple_of": shape.multiple_of,
        "n_heads": shape.heads,
        "n_layers": shape.layers,
        "norm_eps": shape.norm_eps,
        "vocab_size": -1,
    }
    (weights / "params.json").write_text(json.dumps(params))
    draw = None if skeleton else random
    for shard in range(shape.shards):
        sizes = {name: _shard_shape(name, size, shape.shards) for name, size in llama_shapes(shape).items()}
        write_torch(weights / f"consolidated.{shard:02d}.pth", sizes, torch.float16, draw)
    write_torch(out / "clip" / "ViT.pth", clip_shapes(shape), torch.float16, draw)
    write_adapters(out / "checkpoint-19.pth", trained or eas(shape), draw)
    return out


def write_adapters(path: Path, trained: Trained, random: torch.Generator | None) -> None:
    """Write what training leaves: the adapters beside optimizer, epoch and arguments."""
    around = {"optimizer": {}, "epoch": 19, "scaler": {}, "args": argparse.Namespace(**trained.args)}
    write_torch(path, trained.sizes, torch.float32, random, lambda tensors: {"model": tensors} | around)


def write_torch(
    path: Path,
    sizes: Sizes,
    dtype: torch.dtype,
    random: torch.Generator | None,
    wrap: Callable[[dict], dict] = lambda tensors: tensors,
) -> None:
    """Write the file with holes for its tensors, then fill them with random numbers; without `random` they stay holes."""
    with FakeTensorMode():
        content = wrap({name: torch.empty(size, dtype=dtype) for name, size in sizes.items()})
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(content, path)
    if random is None:
        return
    with (
        torch.serialization.set_default_mmap_options(mmap.MAP_SHARED),
        torch.serialization.safe_globals([argparse.Namespace]),
    ):
        mapped = torch.load(path, mmap=True, weights_only=True)
    tensors = mapped.get("model", mapped)
    for name, size in sizes.items():
        tensors[name].copy_(_draw(name, size, random))


def _shard_shape(name: str, size: tuple[int, ...], shards: int) -> tuple[int, ...]:
    dim = next((d for key, d in SHARD_DIMS.items() if key in name.split(".")), None)
    return size if dim is None else tuple(n // shards if axis == dim else n for axis, n in enumerate(size))


def _draw(name: str, size: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    """Norms near 1, biases small, matrices of gain 1 by their input width; routers wide enough to prefer a branch, LoRA small."""
    values = torch.randn(size, generator=random)
    if len(size) == 1:
        norm = any(part in name for part in ("norm.", "ln_")) and name.endswith("weight")
        values = 1 + 0.1 * values if norm else 0.1 * values
    elif "embed" not in name:
        fan_in = torch.Size(size[1:]).numel()
        values *= next((gain for part, gain in GAINS.items() if part in name), 1.0) / fan_in**0.5
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, help="another number of layers; skips beyond it are dropped")
    parser.add_argument("--shards", type=int, help="another number of model-parallel shards")
    parser.add_argument("--skeleton", action="store_true", help="headers only: the tensors are holes in the files")
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    if given.layers:
        shape = replace(shape, layers=given.layers, skip=tuple(i for i in shape.skip if i < given.layers))
    shape = replace(shape, shards=given.shards or shape.shards)
    print(write_checkpoint(given.out, shape, given.seed, given.skeleton))


if __name__ == "__main__":
    main()
