"""The names of a Hugging Face text decoder's tensors, by the rows of architectures.py."""

from functools import partial, reduce
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import InternalError, UserError
from .architectures import ARCHITECTURES, Architecture
from .hf_files import CONFIG_FILE
from .hf_text import EMBED_KEY, HEAD_KEY, TextConfig
from .hugging_face import Tensors
from .keys import Key, KeyTable, expected_shapes
from .lazy_tensor import LazyTensor
from .quantised import FIX, recorded_method
from .state_dict import refuse_by_name

# Published parts of a layer whose rows are several of ours, one after the other
FUSED = {"self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"), "mlp.gate_up_proj": ("gate_proj", "up_proj")}
UNTIED_HEAD: KeyTable = {HEAD_KEY: Key("head.weight", ("vocab", "dim"))}
TIED_HEAD: KeyTable = {HEAD_KEY: None}


def text_keys(row: Architecture, attention_bias: bool, mlp_bias: bool, group: str = "i") -> KeyTable:
    """The key table of a decoder but for its head, with q, k, v, gate and up apart. group: of the layers that have an attention (see
    keys.rename)"""
    layer = "model.layers.{i}"
    return {
        EMBED_KEY: Key("embed.weight", ("vocab", "dim")),
        "model.norm.weight": Key("norm.weight", ("dim",)),
        **{
            f"{layer}.{theirs}.weight": Key(f"layers.{{i}}.{ours}.weight", ("dim",))
            for theirs, ours in row.norms.items()
        },
        **attention_keys(row, attention_bias, group),
        **_linear(f"{layer}.mlp.gate_proj", "layers.{i}.ffn.gate", "ffn", "dim", mlp_bias),
        **_linear(f"{layer}.mlp.up_proj", "layers.{i}.ffn.up", "ffn", "dim", mlp_bias),
        **_linear(f"{layer}.mlp.down_proj", "layers.{i}.ffn.down", "dim", "ffn", mlp_bias),
        "model.layers.*.self_attn.rotary_emb.inv_freq": None,  # rounded; computed from theta instead
    }


def attention_keys(row: Architecture, attention_bias: bool, group: str) -> KeyTable:
    theirs, ours = f"model.layers.{{{group}}}.self_attn", "layers.{i}.attention"
    bias = attention_bias or row.has("qkv_bias")
    norms = ("q_norm", "k_norm") if row.has("qk_norm") else ()
    return {
        **_linear(f"{theirs}.q_proj", f"{ours}.q", "q", "dim", bias),
        **_linear(f"{theirs}.k_proj", f"{ours}.k", "kv", "dim", bias),
        **_linear(f"{theirs}.v_proj", f"{ours}.v", "kv", "dim", bias),
        **_linear(f"{theirs}.o_proj", f"{ours}.o", "dim", "q", attention_bias),
        **{f"{theirs}.{norm}.weight": Key(f"{ours}.{norm}.weight", ("head",)) for norm in norms},
    }


def _linear(theirs: str, ours: str, outputs: str, inputs: str, bias: bool) -> dict[str, Key]:
    keys = {f"{theirs}.weight": Key(f"{ours}.weight", (outputs, inputs))}
    return keys | ({f"{theirs}.bias": Key(f"{ours}.bias", (outputs,))} if bias else {})


# Of all rows, fused ones too, to find what stands before the keys of a file
EVERY_TEXT_KEY: KeyTable = reduce(
    lambda table, row: {**table, **text_keys(row, attention_bias=True, mlp_bias=True)},
    ARCHITECTURES.values(),
    {**UNTIED_HEAD, **{f"model.layers.{{i}}.{name}.weight": Key("", ()) for name in FUSED}},
)


def split_fused(published: Tensors, config: TextConfig) -> Tensors:
    """The tensors with q, k, v, gate and up apart, where the files have them as the rows of one tensor."""
    sizes = text_sizes(config)
    rows = {"q_proj": sizes["q"], **dict.fromkeys(("k_proj", "v_proj"), sizes["kv"])}
    rows |= dict.fromkeys(("gate_proj", "up_proj"), sizes["ffn"])
    result: Tensors = {}
    for key, tensor in published.items():
        place, _, kind = key.rpartition(".")
        parts = next((parts for name, parts in FUSED.items() if place.endswith(f".{name}")), ())
        counts = [rows[part] for part in parts]
        if not config.architecture.fused or tensor.shape[:1] != (sum(counts),):
            result[key] = tensor  # of another shape: `rename` says so
            continue
        for part, begin, count in zip(parts, accumulate(counts, initial=0), counts):
            take = partial(Tensor.narrow, dim=0, start=begin, length=count)
            result[f"{place.rpartition('.')[0]}.{part}.{kind}"] = tensor.map(take, (count, *tensor.shape[1:]))
    return result


def text_sizes(config: TextConfig) -> dict[str, int]:
    """The sizes that the key tables name."""
    return {
        "dim": config.hidden_size,
        "q": config.num_attention_heads * config.head_size,
        "kv": config.kv_heads * config.head_size,
        "head": config.head_size,
        "ffn": config.intermediate_size,
        "vocab": config.vocab_size,
    }


def from_config(config: TextConfig, folder: Path) -> Tensors:
    """A plain model's tensors, with q, k, v, gate and up apart, of a folder without weights: their shapes are known, and none can be read.
    Raises UserError for parts of a model, which are named, and for quantised weights."""
    refuse_by_name(folder)
    if method := recorded_method(config.quantization_config):
        raise UserError(f"the weights are quantised ({method})", where=folder / CONFIG_FILE, fix=FIX)
    table = text_keys(config.architecture, config.attention_bias, config.mlp_bias)
    table = table if config.tie_word_embeddings else {**table, **UNTIED_HEAD}
    shapes = expected_shapes(table, text_sizes(config), config.num_hidden_layers)

    def read() -> Tensor:
        raise InternalError(f"{folder} has no weights to read")

    return {key: LazyTensor(shape, torch.float32, f"{CONFIG_FILE}: {key}", read) for key, shape in shapes.items()}
