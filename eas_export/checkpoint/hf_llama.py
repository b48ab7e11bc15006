"""LLaMA in Hugging Face's form (LlamaForCausalLM): the keys of its config.json and the names of its tensors."""

import reprlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from ..core.errors import UserError
from .hf_files import CONFIG_FILE
from .hugging_face import Flag, HfConfig, Tensors
from .keys import Key, KeyTable, require
from .lazy_tensor import differ


def attention_keys(group: str, pairs_of: int | None = None) -> KeyTable:
    """The key table's rows for the attentions of a group of blocks (see keys.rename).

    pairs_of  None: rows of q and k as in the files, where RoPE turns the halves of a head; a number of heads: reordered for RoPE that
              turns neighbouring pairs, as in Meta's files
    """
    block = f"model.layers.{{{group}}}.self_attn"

    def turned(name: str, rows: str) -> Key:
        convert = None if pairs_of is None else lambda weight: in_pairs(weight, pairs_of)
        return Key(f"layers.{{i}}.attention.{name}.weight", (rows, "dim"), convert=convert, becomes=(rows, "dim"))

    return {
        f"{block}.q_proj.weight": turned("q", "dim"),
        f"{block}.k_proj.weight": turned("k", "kv"),
        f"{block}.v_proj.weight": Key("layers.{i}.attention.v.weight", ("kv", "dim")),
        f"{block}.o_proj.weight": Key("layers.{i}.attention.o.weight", ("dim", "dim")),
    }


def in_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from its first half and its second to (0, h/2), (1, h/2 + 1), ...: [heads * h, dim], as Meta's files have them.
    transformers' conversion of those files does the opposite."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


HEAD_KEY = "lm_head.weight"
EMBED_KEY = "model.embed_tokens.weight"

LLAMA_KEYS: KeyTable = {  # without the attentions and the head, which may be tied to the embedding
    EMBED_KEY: Key("embed.weight", ("vocab", "dim")),
    "model.norm.weight": Key("norm.weight", ("dim",)),
    "model.layers.{i}.mlp.gate_proj.weight": Key("layers.{i}.ffn.gate.weight", ("ffn", "dim")),
    "model.layers.{i}.mlp.up_proj.weight": Key("layers.{i}.ffn.up.weight", ("ffn", "dim")),
    "model.layers.{i}.mlp.down_proj.weight": Key("layers.{i}.ffn.down.weight", ("dim", "ffn")),
    "model.layers.{i}.input_layernorm.weight": Key("layers.{i}.norm.weight", ("dim",)),
    "model.layers.{i}.post_attention_layernorm.weight": Key("layers.{i}.ffn_norm.weight", ("dim",)),
    "model.layers.*.self_attn.rotary_emb.inv_freq": None,  # rounded; computed from theta instead
}
UNTIED_HEAD: KeyTable = {HEAD_KEY: Key("head.weight", ("vocab", "dim"))}
TIED_HEAD: KeyTable = {HEAD_KEY: None}
EVERY_KEY: KeyTable = {**LLAMA_KEYS, **attention_keys("i"), **UNTIED_HEAD}


class LlamaConfig(HfConfig):
    """The architecture in config.json; defaults are those of transformers."""

    hidden_size: int = Field(gt=0, le=1 << 20)
    intermediate_size: int = Field(gt=0, le=1 << 24)
    num_attention_heads: int = Field(gt=0, le=1 << 16)
    num_key_value_heads: int | None = Field(default=None, gt=0, le=1 << 16)
    num_hidden_layers: int = Field(gt=0, le=1000)
    vocab_size: int = Field(gt=0, le=1 << 24)
    rms_norm_eps: float = Field(default=1e-6, gt=0, le=1)
    rope_theta: float = Field(default=10000.0, ge=1, le=1e12)
    head_dim: int | None = None
    hidden_act: str = "silu"
    attention_bias: Flag = False
    mlp_bias: Flag = False
    tie_word_embeddings: Flag = False
    is_causal: Literal[True] = True

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @model_validator(mode="before")
    @classmethod
    def _as_transformers_reads_rope(cls, values: Any) -> Any:
        """One table of RoPE: rope_scaling, else rope_parameters (transformers 5 writes both); its type is rope_type, else the older type.
        Plain are no table, the type default, and linear by a factor of 1. A theta in the table wins over rope_theta."""
        if not isinstance(values, dict):
            return values
        rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
        table = rope if isinstance(rope, dict) else {"type": rope}
        kind = table.get("rope_type", table.get("type", "default"))
        by_one = kind == "linear" and table.get("factor") == 1 and "partial_rotary_factor" not in values | table
        if kind != "default" and not by_one:
            raise ValueError(
                f"RoPE is scaled by {reprlib.repr(kind)} ({reprlib.repr(rope)}): only plain RoPE is supported"
            )
        return values | ({"rope_theta": table["rope_theta"]} if "rope_theta" in table else {})

    @model_validator(mode="after")
    def _is_plain_llama(self) -> "LlamaConfig":
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads of even size"
            )
        if self.head_dim not in (None, self.hidden_size // self.num_attention_heads):
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads")
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"num_key_value_heads {self.kv_heads} does not divide num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act is {reprlib.repr(self.hidden_act)}: only silu is supported")
        if self.attention_bias or self.mlp_bias:
            raise ValueError("attention_bias or mlp_bias is true: projections have biases, which are not supported")
        return self


def tie(published: Tensors, config: LlamaConfig) -> tuple[Tensors, bool, tuple[str, ...]]:
    """The tensors with an embedding, whether the head is tied to it, and a note: as transformers 5 ties. Of a tied pair, files may hold both
    or either; two that differ are not tied. Both are read where the files hold both."""
    embed, head = published.get(EMBED_KEY), published.get(HEAD_KEY)
    if not config.tie_word_embeddings or head is None:
        return published, config.tie_word_embeddings, ()
    if embed is None:
        return {**published, EMBED_KEY: head}, True, ()
    if not differ(embed, head):
        return published, True, ()
    note = f"{HEAD_KEY} is used as it is: it differs from {EMBED_KEY}, though tie_word_embeddings is true"
    return published, False, (note,)


def llama_sizes(config: LlamaConfig, published: Tensors, folder: Path) -> dict[str, int]:
    """The sizes that the key tables name. Raises UserError where the embedding does not match the config."""
    rows = require(published, EMBED_KEY, 2, str(folder))[0]
    if rows != config.vocab_size:
        what = f"vocab_size is {config.vocab_size}, but {EMBED_KEY} has {rows} rows"
        raise UserError(what, where=folder / CONFIG_FILE, fix="give the config.json that belongs to these weights")
    return {
        "dim": config.hidden_size,
        "kv": config.kv_heads * (config.hidden_size // config.num_attention_heads),
        "ffn": config.intermediate_size,
        "vocab": config.vocab_size,
    }
