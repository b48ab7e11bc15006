"""The names of a Hugging Face text decoder's tensors, by the rows of architectures.py."""

from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import InternalError, UserError
from .architectures import ARCHITECTURES, FUSED, Architecture
from .hf_files import CONFIG_FILE
from .hf_text import EMBED_KEY, HEAD_KEY, TextConfig
from .hugging_face import Tensors
from .keys import Key, KeyTable, expected_shapes
from .lazy_tensor import LazyTensor
from .quantised import FIX, recorded_method
from .state_dict import refuse_by_name

PROJECTIONS = {"q_proj": "q", "k_proj": "k", "v_proj": "v"}  # of the attention, to heads
SIZES = {"q": "q", "k": "kv", "v": "kv"}
UNTIED_HEAD: KeyTable = {HEAD_KEY: Key("head.weight", ("vocab", "dim"))}
TIED_HEAD: KeyTable = {HEAD_KEY: None}


def text_keys(row: Architecture, bias: bool, ffn_bias: bool, group: str = "i") -> KeyTable:
    """The key table of a decoder but for its head, with q, k, v, gate and up apart.

    bias      whether attention_bias is set
    ffn_bias  whether mlp_bias is set
    group     of the layers that have an attention (see keys.rename)
    """
    has = dict.fromkeys(row.biases, bias) | dict(row.fixed)
    layer = "model.layers.{i}"
    return {
        EMBED_KEY: Key("embed.weight", ("vocab", "dim")),
        "model.norm.weight": Key("norm.weight", ("dim",)),
        **{
            f"{layer}.{theirs}.weight": Key(f"layers.{{i}}.{ours}.weight", ("dim",))
            for theirs, ours in row.norms.items()
        },
        **attention_keys(has.get("qkv_bias", False), has.get("o_bias", False), has.get("qk_norm", False), group),
        **_linear(f"{layer}.mlp.gate_proj", "layers.{i}.ffn.gate", "ffn", "dim", ffn_bias),
        **_linear(f"{layer}.mlp.up_proj", "layers.{i}.ffn.up", "ffn", "dim", ffn_bias),
        **_linear(f"{layer}.mlp.down_proj", "layers.{i}.ffn.down", "dim", "ffn", ffn_bias),
        "model.layers.*.self_attn.rotary_emb.inv_freq": None,  # rounded; computed from theta instead
    }


def attention_keys(qkv_bias: bool, o_bias: bool, qk_norm: bool, group: str) -> KeyTable:
    place, ours = f"model.layers.{{{group}}}.self_attn", "layers.{i}.attention"
    table: dict[str, Key | None] = {}
    for theirs, name in PROJECTIONS.items():
        table |= _linear(f"{place}.{theirs}", f"{ours}.{name}", SIZES[name], "dim", qkv_bias)
    table |= _linear(f"{place}.o_proj", f"{ours}.o", "dim", "q", o_bias)
    for name in ("q_norm", "k_norm") if qk_norm else ():
        table[f"{place}.{name}.weight"] = Key(f"{ours}.{name}.weight", ("head",))
    return table


def _linear(theirs: str, ours: str, outputs: str, inputs: str, bias: bool) -> dict[str, Key]:
    keys = {f"{theirs}.weight": Key(f"{ours}.weight", (outputs, inputs))}
    return keys | ({f"{theirs}.bias": Key(f"{ours}.bias", (outputs,))} if bias else {})


def _every_key() -> KeyTable:
    """Of all rows, fused ones too, to find what stands before the keys of a file."""
    table: dict[str, Key | None] = {}
    for row in ARCHITECTURES.values():
        table |= text_keys(row, bias=True, ffn_bias=True)
    fused = {f"model.layers.{{i}}.{name}.weight": Key("", ()) for name in FUSED}
    return table | fused | UNTIED_HEAD


EVERY_TEXT_KEY = _every_key()


def split_fused(published: Tensors, config: TextConfig) -> Tensors:
    """The tensors with q, k, v, gate and up apart, where the files have them as the rows of one tensor."""
    rows = {"q_proj": config.num_attention_heads * config.head_size, "gate_proj": config.intermediate_size}
    rows |= dict.fromkeys(("k_proj", "v_proj"), config.kv_heads * config.head_size) | {"up_proj": rows["gate_proj"]}
    result: Tensors = {}
    for key, tensor in published.items():
        parts = (
            next((parts for name, parts in FUSED.items() if f".{name}." in key), ())
            if config.architecture.fused
            else ()
        )
        whole = sum(rows[part] for part in parts)
        if not parts or not tensor.shape or tensor.shape[0] != whole:
            result[key] = tensor  # of another shape: `rename` says so
            continue
        place, kind = key.rsplit(".", 2)[0], key.rsplit(".", 1)[1]
        begin = 0
        for part in parts:
            end = begin + rows[part]

            def take(t: Tensor, begin: int = begin, end: int = end) -> Tensor:
                return t[begin:end]

            result[f"{place}.{part}.{kind}"] = tensor.map(take, (rows[part], *tensor.shape[1:]))
            begin = end
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
