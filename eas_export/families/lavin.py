"""LaVIN-EAS: a Meta-LLaMA checkpoint, an adapter checkpoint (`checkpoint-<epoch>.pth`) and OpenAI's CLIP ViT.

Formats, from the published training code:
- weights/<name>/params.json and consolidated.NN.pth (one file, or model-parallel shards)
- checkpoint-<epoch>.pth = {model, optimizer, epoch, scaler, args}: the adapters' tensors, and in `args` the only record of the
  skip list, the scale, the temperature and n_prompt
- clip/*.pth or *.pt: a state dict, or the TorchScript archive that OpenAI publishes
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.keys import Key, KeyTable, merge_shards, rename, require
from ..checkpoint.lazy import LazyTensor, combine
from ..checkpoint.torch_zip import read_torch_zip, state_dict_of
from ..config import AdapterConfig, ModelConfig, Record, VisionConfig
from ..errors import UserError
from ..family import Family, Sources
from ..model.vision import AdapterVisionTower
from ..plan import SkipEvidence
from ..rewrite.fold import block_diagonal

FEATURE_EVERY = 4  # the class token is read after blocks 4, 8, ...


def _matrix(weight: Tensor) -> Tensor:
    """A 1x1 convolution [out, in, 1] as [out, in]"""
    return weight.squeeze(-1)


def _adapter_keys(published: str, ours: str, dim: str, rank: str, inner: str) -> dict[str, Key]:
    """The rows of one adapter; `inner` is "A" (before a kept attention) or "AC" (in place of a skipped one). In all, groups = 2."""
    keys: dict[str, Key] = {}
    for letter in inner:
        keys[f"{published}.conv_{letter}.weight"] = Key(f"{ours}.{letter}", (rank, dim, 1), convert=_matrix)
        keys[f"{published}.conv_{letter}.bias"] = Key(f"{ours}.{letter.lower()}", (rank,))
    for letter in "BD":
        keys[f"{published}.conv_{letter}.weight"] = Key(
            f"{ours}.{letter}", (dim, f"{rank}_per_group", 1), convert=block_diagonal
        )
        keys[f"{published}.conv_{letter}.bias"] = Key(f"{ours}.{letter.lower()}", (dim,))
    keys[f"{published}.expert_weights.weight"] = Key(f"{ours}.E", (2, dim))
    keys[f"{published}.expert_weights.bias"] = Key(f"{ours}.e", (2,))
    return keys


LLAMA_KEYS: KeyTable = {
    "tok_embeddings.weight": Key("embed.weight", ("vocab", "dim"), shard=1),
    "norm.weight": Key("norm.weight", ("dim",)),
    "output.weight": Key("head.weight", ("vocab", "dim"), shard=0),
    "layers.{i}.attention.wq.weight": Key("layers.{i}.attention.q.weight", ("dim", "dim"), shard=0),
    "layers.{i}.attention.wk.weight": Key("layers.{i}.attention.k.weight", ("dim", "dim"), shard=0),
    "layers.{i}.attention.wv.weight": Key("layers.{i}.attention.v.weight", ("dim", "dim"), shard=0),
    "layers.{i}.attention.wo.weight": Key("layers.{i}.attention.o.weight", ("dim", "dim"), shard=1),
    "layers.{i}.feed_forward.w1.weight": Key("layers.{i}.ffn.gate.weight", ("ffn", "dim"), shard=0),
    "layers.{i}.feed_forward.w2.weight": Key("layers.{i}.ffn.down.weight", ("dim", "ffn"), shard=1),
    "layers.{i}.feed_forward.w3.weight": Key("layers.{i}.ffn.up.weight", ("ffn", "dim"), shard=0),
    "layers.{i}.attention_norm.weight": Key("layers.{i}.norm.weight", ("dim",)),
    "layers.{i}.ffn_norm.weight": Key("layers.{i}.ffn_norm.weight", ("dim",)),
    "rope.freqs": None,  # rounded; computed from theta instead
    "layers.*.attention.inner_attention.rope.freqs": None,
}

LAYER_ADAPTER_KEYS: KeyTable = {
    **_adapter_keys("layers.{i}.adapter_attn", "layers.{i}.kept_adapter", "dim", "kept", "A"),
    **_adapter_keys("layers.{i}.replaced_adapter", "layers.{i}.skipped_adapter", "dim", "skipped", "AC"),
    "adapter_modality_embedding.weight": Key("modality", (2, "dim")),
    "adapter_proj.conv_A.weight": Key("vision.project1.weight", ("projector", "width")),
    "adapter_proj.conv_A.bias": Key("vision.project1.bias", ("projector",)),
    "adapter_proj.conv_B.weight": Key("vision.project2.weight", ("dim", "projector")),
    "adapter_proj.conv_B.bias": Key("vision.project2.bias", ("dim",)),
    "backbone.visual.*": None,  # read with the next table
}

VISION_ADAPTER_KEYS: KeyTable = {
    **_adapter_keys(
        "backbone.visual.transformer.resblocks.{i}.adapter_attn", "vision.blocks.{i}.adapter", "width", "visual", "A"
    ),
    "backbone.visual.transformer.resblocks.*.adapter_mlp.*": None,  # type 'normal' trains them and never calls them
    "layers.*": None,  # read with the table before
    "adapter_*": None,
}

_BLOCK = "visual.transformer.resblocks.{i}"
CLIP_KEYS: KeyTable = {
    "visual.class_embedding": Key("vision.class_embedding", ("width",)),
    "visual.positional_embedding": Key("vision.position_embedding", ("positions", "width")),
    "visual.conv1.weight": Key("vision.patch.weight", ("width", 3, "patch", "patch")),
    "visual.ln_pre.weight": Key("vision.norm.weight", ("width",)),
    "visual.ln_pre.bias": Key("vision.norm.bias", ("width",)),
    f"{_BLOCK}.attn.in_proj_weight": Key("vision.blocks.{i}.qkv.weight", ("3*width", "width")),
    f"{_BLOCK}.attn.in_proj_bias": Key("vision.blocks.{i}.qkv.bias", ("3*width",)),
    f"{_BLOCK}.attn.out_proj.weight": Key("vision.blocks.{i}.out.weight", ("width", "width")),
    f"{_BLOCK}.attn.out_proj.bias": Key("vision.blocks.{i}.out.bias", ("width",)),
    f"{_BLOCK}.ln_1.weight": Key("vision.blocks.{i}.norm1.weight", ("width",)),
    f"{_BLOCK}.ln_1.bias": Key("vision.blocks.{i}.norm1.bias", ("width",)),
    f"{_BLOCK}.ln_2.weight": Key("vision.blocks.{i}.norm2.weight", ("width",)),
    f"{_BLOCK}.ln_2.bias": Key("vision.blocks.{i}.norm2.bias", ("width",)),
    f"{_BLOCK}.mlp.c_fc.weight": Key("vision.blocks.{i}.fc1.weight", ("4*width", "width")),
    f"{_BLOCK}.mlp.c_fc.bias": Key("vision.blocks.{i}.fc1.bias", ("4*width",)),
    f"{_BLOCK}.mlp.c_proj.weight": Key("vision.blocks.{i}.fc2.weight", ("width", "4*width")),
    f"{_BLOCK}.mlp.c_proj.bias": Key("vision.blocks.{i}.fc2.bias", ("width",)),
    "visual.ln_post.*": None,  # the class token is read before it
    "visual.proj": None,
    "transformer.*": None,  # the text encoder
    "token_embedding.weight": None,
    "positional_embedding": None,
    "ln_final.*": None,
    "text_projection": None,
    "logit_scale": None,
    "input_resolution": None,
    "context_length": None,
    "vocab_size": None,
}


class LlamaParams(Record):
    """params.json of a Meta-LLaMA checkpoint."""

    dim: int = Field(gt=0)
    n_layers: int = Field(gt=0, le=1000)
    n_heads: int = Field(gt=0)
    n_kv_heads: int | None = None
    multiple_of: int = Field(default=256, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)
    rope_theta: float = Field(default=10000.0, gt=0)
    vocab_size: int = -1  # not used: the embedding table says
    max_batch_size: int | None = None
    max_seq_len: int | None = None

    @property
    def ffn_dim(self) -> int:
        """2/3 of 4 dim, rounded up to a multiple of `multiple_of` (Meta's LLaMA)."""
        return -(-int(2 * 4 * self.dim / 3) // self.multiple_of) * self.multiple_of


@dataclass(frozen=True)
class _Files:
    adapters: Path
    weights: Path  # the folder that holds params.json
    shards: list[Path]
    vision: Path
    tokenizer: Path | None


def detect(path: Path) -> bool:
    if path.is_dir():
        return bool(list(path.glob("checkpoint-*.pth"))) or (path / "weights").is_dir()
    return path.suffix == ".pth"


def load(sources: Sources) -> Checkpoint:
    """Read the three parts' headers. Raises UserError for anything that is missing, unknown, mis-shaped or does not fit."""
    adapters_file = _one(sources.ckpt, "checkpoint-*.pth") if sources.ckpt.is_dir() else sources.ckpt
    saved = read_torch_zip(adapters_file)
    if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict):
        raise UserError(
            "it holds no entry 'model'", where=adapters_file, fix="give the checkpoint-<epoch>.pth that training wrote"
        )
    args = vars(saved["args"]) if hasattr(saved.get("args"), "__dict__") else {}
    files = _find_files(sources, adapters_file, args)
    params = _read_params(files.weights / "params.json")
    _refuse_unsupported(args, adapters_file)

    llama = merge_shards(
        [state_dict_of(read_torch_zip(f), f) for f in files.shards], LLAMA_KEYS, [f.name for f in files.shards]
    )
    clip = state_dict_of(read_torch_zip(files.vision), files.vision)
    adapters = {key.removeprefix("module."): t for key, t in state_dict_of(saved["model"], adapters_file).items()}
    first, where = "layers.0", str(adapters_file)
    kept_rank = require(adapters, f"{first}.adapter_attn.conv_A.weight", 3, where)[0]
    skipped_rank = require(adapters, f"{first}.replaced_adapter.conv_C.weight", 3, where)[0]
    visual_rank = require(adapters, "backbone.visual.transformer.resblocks.0.adapter_attn.conv_A.weight", 3, where)[0]
    projector = require(adapters, "adapter_proj.conv_A.weight", 2, where)[0]
    for rank in (kept_rank, skipped_rank, visual_rank):
        if rank % 2:
            raise UserError(
                f"adapter rank {rank} is odd; its convolutions have two groups", where=where, fix="check the file"
            )
    width, _, patch, _ = require(clip, "visual.conv1.weight", 4, str(files.vision))
    positions = require(clip, "visual.positional_embedding", 2, str(files.vision))[0]
    blocks = 1 + max(
        (int(m[1]) for k in clip if (m := re.match(r"visual\.transformer\.resblocks\.(\d{1,4})\.", k))), default=-1
    )
    vocab = require(llama, "tok_embeddings.weight", 2, str(files.weights))[0]
    _check_vision(args, blocks, width, positions, files)

    sizes = {
        "dim": params.dim,
        "vocab": vocab,
        "ffn": params.ffn_dim,
        "width": width,
        "patch": patch,
        "positions": positions,
        "projector": projector,
        "kept": kept_rank,
        "skipped": skipped_rank,
        "visual": visual_rank,
        "kept_per_group": kept_rank // 2,
        "skipped_per_group": skipped_rank // 2,
        "visual_per_group": visual_rank // 2,
    }
    tensors = rename(llama, LLAMA_KEYS, sizes, params.n_layers, files.weights.name)
    tensors |= rename(adapters, LAYER_ADAPTER_KEYS, sizes, params.n_layers, str(adapters_file))
    tensors |= rename(adapters, VISION_ADAPTER_KEYS, sizes, blocks, str(adapters_file))
    tensors |= rename(clip, CLIP_KEYS, sizes, blocks, str(files.vision))
    tensors["embed.weight"] = _extended_embedding(tensors["embed.weight"], tensors.pop("modality"))

    scale = _setting("adapter_scale", sources.adapter_scale, args, "--adapter-scale", adapters_file)
    temperature = _setting("temperature", sources.router_temperature, args, "--router-temperature", adapters_file)

    def adapter(rank: int) -> AdapterConfig:
        return AdapterConfig(rank=rank, scale=scale, temperature=temperature)

    config = ModelConfig(
        family="lavin",
        vocab_size=vocab,
        dim=params.dim,
        layers=params.n_layers,
        heads=params.n_heads,
        ffn_dim=params.ffn_dim,
        norm_eps=params.norm_eps,
        rope_theta=params.rope_theta,
        rope_interleaved=True,
        modality_token=True,
        kept_adapter=adapter(kept_rank),
        skipped_adapter=adapter(skipped_rank),
        vision=VisionConfig(
            image_size=patch * round((positions - 1) ** 0.5),
            patch_size=patch,
            width=width,
            blocks=blocks,
            heads=width // 64,
            feature_every=FEATURE_EVERY,
            projector_width=projector,
            adapter=adapter(visual_rank),
        ),
    )
    skip_list = args.get("skip_list")
    evidence = SkipEvidence(
        text=None if skip_list is None else str(skip_list), origin=f"args.skip_list of {adapters_file.name}"
    )
    paths = (adapters_file, files.weights / "params.json", *files.shards, files.vision)
    notes = (
        ("it was trained on Vicuna: the weights must have Vicuna's delta applied already",)
        if args.get("use_vicuna")
        else ()
    )
    return Checkpoint(config, tensors, evidence, paths, notes, files.tokenizer)


def find_images(config: ModelConfig, token_ids: list[int], images: int) -> list[int]:
    """The image takes the place of the first n_prompt zeros of the prompt, which must stand together."""
    if images == 0:
        return []
    if images > 1:
        raise UserError(
            f"a prompt has {images} images", where="image_row", fix="LaVIN takes one image per prompt at most"
        )
    wanted = config.vision.tokens
    zeros = [position for position, token in enumerate(token_ids) if token == 0][:wanted]
    if len(zeros) < wanted or zeros[-1] - zeros[0] != wanted - 1:
        raise UserError(
            f"a prompt with an image has zeros at {zeros}, not {wanted} (n_prompt) in a row",
            where="input_ids",
            fix=f"write {wanted} zeros where the image belongs: 'Image: ' + zeros + prompt",
        )
    return zeros


LAVIN = Family("lavin", detect, load, lambda config: AdapterVisionTower(config.vision, config.dim), find_images)


def _extended_embedding(tokens: LazyTensor, modality: LazyTensor) -> LazyTensor:
    """The embedding table with the modality token's two rows (without image, with image) behind it."""
    return combine([tokens, modality], lambda t, m: torch.cat([t, m.to(torch.promote_types(t.dtype, m.dtype))]))


def _one(folder: Path, *patterns: str) -> Path:
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if not found:
        raise UserError(
            f"there is no {' or '.join(patterns)}",
            where=folder,
            fix="lay the files out as weights/<name>/, clip/*.pth, checkpoint-*.pth, or name them with --ckpt FILE --weights DIR --vision FILE",
        )
    if len(found) > 1:
        raise UserError(
            f"there are {len(found)} files {' or '.join(patterns)} ({', '.join(p.name for p in found[:4])})",
            where=folder,
            fix="name the one you mean: --ckpt FILE --weights DIR --vision FILE",
        )
    return found[0]


def _find_files(sources: Sources, adapters: Path, args: dict[str, Any]) -> _Files:
    base = sources.ckpt if sources.ckpt.is_dir() else None
    if base is None and (sources.weights is None or sources.vision is None):
        raise UserError(
            "the adapter file alone is not a model",
            where=adapters,
            fix="pass --weights DIR (with params.json and consolidated.*.pth) and --vision FILE (CLIP ViT) beside it",
        )
    weights = _weights_folder(sources.weights or base / "weights", args)
    shards = sorted(weights.glob("consolidated.*.pth"))
    if not shards:
        raise UserError(
            "there is no consolidated.*.pth", where=weights, fix="give the folder of a Meta-LLaMA checkpoint"
        )
    vision = sources.vision or _one(base / "clip", "*.pth", "*.pt")
    tokenizer = weights.parent / "tokenizer.model"
    return _Files(adapters, weights, shards, vision, tokenizer if tokenizer.is_file() else None)


def _weights_folder(folder: Path, args: dict[str, Any]) -> Path:
    """`folder` itself if it holds params.json, else the subfolder that does; of several, the one that args.llm_model names."""
    if (folder / "params.json").is_file():
        return folder
    found = sorted(path.parent for path in folder.glob("*/params.json"))
    named = [path for path in found if path.name == args.get("llm_model")]
    if len(found) != 1 and len(named) != 1:
        said = (
            f"several folders with params.json ({', '.join(p.name for p in found)})"
            if found
            else "no folder with params.json"
        )
        raise UserError(f"there is {said}", where=folder, fix="pass --weights DIR, the folder that holds params.json")
    return (named or found)[0]


def _read_params(path: Path) -> LlamaParams:
    try:
        params = LlamaParams.model_validate(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        reason = error.errors()[0] if isinstance(error, ValidationError) else None
        said = f"{'.'.join(map(str, reason['loc']))}: {reason['msg']}" if reason else str(error)
        raise UserError(
            f"it is not the params.json of a LLaMA model ({said})", where=path, fix="copy it from the original weights"
        ) from None
    if params.n_kv_heads not in (None, params.n_heads):
        raise UserError(
            f"n_kv_heads is {params.n_kv_heads}, heads are {params.n_heads}",
            where=path,
            fix="give LLaMA-1 weights: LaVIN has no grouped-query attention",
        )
    if params.dim % (2 * params.n_heads):
        raise UserError(
            f"dim {params.dim} does not divide into {params.n_heads} heads of even size",
            where=path,
            fix="copy it from the original weights",
        )
    return params


def _refuse_unsupported(args: dict[str, Any], where: Path) -> None:
    if args.get("visual_adapter_type") == "router_block":
        raise UserError(
            "visual_adapter_type is 'router_block', which the published code cannot run either",
            where=f"{where}: args",
            fix="train with visual_adapter_type 'router'",
        )
    if args.get("adapter_type", "attn") == "mlp":
        raise UserError(
            "adapter_type is 'mlp', which the published code does not support",
            where=f"{where}: args",
            fix="train with adapter_type 'attn'",
        )


def _check_vision(args: dict[str, Any], blocks: int, width: int, positions: int, files: _Files) -> None:
    if blocks == 0 or blocks % FEATURE_EVERY or width % 64 or round((positions - 1) ** 0.5) ** 2 != positions - 1:
        raise UserError(
            f"a tower of {blocks} blocks, width {width} and {positions} positions is no CLIP ViT of LaVIN's",
            where=files.vision,
            fix="give CLIP's ViT-L/14: blocks in fours, width in 64s, a square of patches and one class token",
        )
    n_prompt = args.get("n_prompt", blocks // FEATURE_EVERY)
    if n_prompt != blocks // FEATURE_EVERY:
        raise UserError(
            f"n_prompt is {n_prompt}, but a tower of {blocks} blocks gives {blocks // FEATURE_EVERY} image tokens",
            where=f"{files.adapters}: args",
            fix="give the CLIP tower that the adapters were trained with",
        )


def _setting(name: str, given: float | None, args: dict[str, Any], option: str, where: Path) -> float:
    value = given if given is not None else args.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise UserError(
            f"args.{name} is {value!r}" if name in args else f"args says no {name}",
            where=where,
            fix=f"pass {option} VALUE",
        )
    if name == "temperature" and value <= 0:
        raise UserError(
            f"the router temperature is {value}",
            where=where if given is None else option,
            fix=f"pass {option} with a value above 0",
        )
    return float(value)
