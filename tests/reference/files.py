"""The published files of all families, read naively: tensors by their published names, and settings. It shares no code with the product."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

Weights = dict[str, Tensor]

SHARD_DIM = {"tok_embeddings": 1, "wo": 1, "w2": 1, "output": 0, "wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0}
OWN_TOWER = "model.vision_tower.vision_tower."


def read_folder(folder: Path) -> Weights:
    """Every tensor of a Hugging Face folder, by its name there."""
    weights: Weights = {}
    for file in sorted(folder.glob("*.bin")):
        weights |= torch.load(file, map_location="cpu", weights_only=True)
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    return weights


def read_lavin(folder: Path) -> tuple[Weights, argparse.Namespace, dict]:
    """LLaMA, CLIP and the adapters in one; the training arguments; params.json."""
    (params,) = folder.glob("weights/*/params.json")
    files = sorted(params.parent.glob("consolidated.*.pth"))
    files += [*folder.glob("clip/*.pth"), *folder.glob("checkpoint-*.pth")]
    with torch.serialization.safe_globals([argparse.Namespace]):
        *shards, clip, adapters = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
    weights: Weights = {}
    for name in shards[0]:  # the parts of model-parallel shards; norms are whole in each and come from shard 0
        dim = SHARD_DIM.get(name.split(".")[-2])
        weights[name] = shards[0][name] if dim is None else torch.cat([shard[name] for shard in shards], dim)
    weights |= {name: value for name, value in clip.items() if name.startswith("visual.")}
    weights |= {name.removeprefix("module.").removeprefix("backbone."): v for name, v in adapters["model"].items()}
    return weights, adapters["args"], json.loads(params.read_text())


def merge_lora(weights: Weights) -> Weights:
    """LaVIN-LoRA's W + 16/r B A in place of each W with A [r, in] and B [out, r] beside it"""
    merged = {name: value for name, value in weights.items() if ".lora_" not in name}
    for name in [name for name in weights if name.endswith(".lora_A")]:
        a, b, weight = (weights[name.replace("lora_A", part)] for part in ("lora_A", "lora_B", "weight"))
        merged[name.replace("lora_A", "weight")] = weight + 16 / len(a) * (b @ a)
    return merged


def read_llava(folder: Path, tower: Path | None = None) -> tuple[Weights, dict, dict]:
    """Model and tower in one, its keys as "vision_model."; the model's config.json; the tower's, empty without one. A tied head is left out.

    The tower is the checkpoint's own where training unfroze it, or where the folder, by default mm_vision_tower's, has no weights.
    """
    weights, config = read_folder(folder), json.loads((folder / "config.json").read_text())
    place = folder / config["mm_vision_tower"] if tower is None else tower
    own = {name.removeprefix(OWN_TOWER): value for name, value in weights.items() if name.startswith(OWN_TOWER)}
    of_folder = {} if own and config.get("unfreeze_mm_vision_tower") else read_folder(place)
    prefixed = {f"vision_model.{name.removeprefix('vision_model.')}": t for name, t in (of_folder or own).items()}
    head, words = (weights.get(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    if config.get("tie_word_embeddings") and head is not None and (words is None or torch.equal(head, words)):
        weights["model.embed_tokens.weight"] = weights.pop("lm_head.weight")  # tied: there is no other head
    settings = place / "config.json"
    clip = json.loads(settings.read_text()) if settings.is_file() else {}
    return weights | prefixed, config, clip.get("vision_config", clip)


def read_meter(file: Path) -> tuple[Weights, dict]:
    """The state dict and hyper_parameters.config."""
    saved = torch.load(file, map_location="cpu", weights_only=True)
    return saved["state_dict"], saved["hyper_parameters"]["config"]
