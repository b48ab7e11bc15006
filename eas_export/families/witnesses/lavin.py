"""LaVIN's base path in transformers: a Hugging Face folder as it is, Meta's files converted in memory. Prompts with text only.

Meta rotates neighbouring pairs of a head's features, transformers its halves: rows of q and k are reordered accordingly.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.hf_keys import EVERY_TEXT_KEY
from ...checkpoint.lazy_tensor import LazyTensor
from ...checkpoint.llama import main_file
from ...checkpoint.meta_llama import PARAMS_FILE, find_shards
from ...checkpoint.state_dict import WRAPPER
from ..contract import Sources
from ..lavin.load import open_files
from . import exactly, from_tensors, import_transformers, llama_config, require_all, translated
from .llama import LlamaWitness

LAYER_NAMES = {  # Meta's -> transformers', and the dimension along which shards are joined
    "attention.wq.weight": ("self_attn.q_proj.weight", 0),
    "attention.wk.weight": ("self_attn.k_proj.weight", 0),
    "attention.wv.weight": ("self_attn.v_proj.weight", 0),
    "attention.wo.weight": ("self_attn.o_proj.weight", 1),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", 0),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", 1),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", 0),
    "attention_norm.weight": ("input_layernorm.weight", None),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
}
EMBED = "tok_embeddings.weight"
NAMES = {
    EMBED: ("model.embed_tokens.weight", 1),
    "norm.weight": ("model.norm.weight", None),
    "output.weight": ("lm_head.weight", 0),
}


def open_witness(sources: Sources) -> LlamaWitness:
    """Raises UserError where transformers is not installed or cannot use the files."""
    transformers = import_transformers()
    files, trained, _ = open_files(sources)
    folder = files.weights
    with translated(folder):
        read = _from_meta if main_file(folder) == PARAMS_FILE else _from_hugging_face
        model = read(transformers, folder)
    _add_pairs(model, trained)
    return LlamaWitness(model.model, model.lm_head)


def _from_hugging_face(transformers: ModuleType, folder: Path) -> Any:
    config = llama_config(transformers, folder)
    model, report = transformers.LlamaForCausalLM.from_pretrained(
        folder, config=config, output_loading_info=True, **exactly(folder, EVERY_TEXT_KEY)
    )
    require_all(report["missing_keys"], folder)
    return model


def _from_meta(transformers: ModuleType, folder: Path) -> Any:
    params = json.loads((folder / PARAMS_FILE).read_text("utf-8"))
    layers, heads, names = params["n_layers"], params["n_heads"], dict(NAMES)
    for i in range(layers):
        names |= {f"layers.{i}.{meta}": (f"model.layers.{i}.{ours}", dim) for meta, (ours, dim) in LAYER_NAMES.items()}
    shards = [
        _published(torch.load(path, map_location="cpu", weights_only=True, mmap=True)) for path in find_shards(folder)
    ]
    state = {ours: _joined([shard[meta] for shard in shards], dim) for meta, (ours, dim) in names.items()}
    for i in range(layers):
        for part in ("q_proj", "k_proj"):
            key = f"model.layers.{i}.self_attn.{part}.weight"
            state[key] = _halves(state[key], heads)
    config = transformers.LlamaConfig(
        hidden_size=params["dim"],
        intermediate_size=len(state["model.layers.0.mlp.gate_proj.weight"]),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=len(state["lm_head.weight"]),
        rms_norm_eps=params.get("norm_eps", 1e-5),
        rope_theta=params.get("rope_theta", 10000.0),
    )
    return from_tensors(transformers.LlamaForCausalLM, config, state)


@torch.no_grad()
def _add_pairs(model: Any, trained: Mapping[str, LazyTensor]) -> None:
    """Merge LaVIN-LoRA's pairs, whose alpha is 16, into the attentions; in other systems there are none."""
    for i, layer in enumerate(model.model.layers):
        for x in "qkvo":
            a, b = (trained.get(f"layers.{i}.attention.w{x}.lora_{half}") for half in "AB")
            if a and b:
                rows = b.read().float()
                product = (_halves(rows, model.config.num_attention_heads) if x in "qk" else rows) @ a.read().float()
                getattr(layer.self_attn, f"{x}_proj").weight.add_(16 / a.shape[0] * product)


def _published(saved: dict[str, Any]) -> dict[str, Tensor]:
    """A shard's tensors by Meta's names, out of the entry that they are in, without wrappers in the keys and the prefix before the embedding's."""
    states = [part for part in (saved, *saved.values()) if isinstance(part, dict)]
    clean = [{WRAPPER.sub("", str(key)): value for key, value in state.items()} for state in states]
    (names,) = [state for state in clean if any(name.endswith(EMBED) for name in state)]
    prefix = next(name for name in names if name.endswith(EMBED)).removesuffix(EMBED)
    return {name.removeprefix(prefix): tensor for name, tensor in names.items()}


def _joined(parts: list[Tensor], dim: int | None) -> Tensor:
    return parts[0].float() if dim is None else torch.cat(parts, dim).float()


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from (0, 1), (2, 3), ... to the first of every pair, then the second: [dim, n]"""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
