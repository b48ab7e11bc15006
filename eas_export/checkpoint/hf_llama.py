"""LLaMA in Hugging Face's form (LlamaForCausalLM): the keys of its config.json and the names of its tensors."""

import reprlib
from typing import Any, Literal

from pydantic import Field, StrictBool, model_validator

from .hugging_face import HfConfig
from .keys import Key, KeyTable


def attention_keys(group: str) -> KeyTable:
    """The key table's rows for the attentions of a group of blocks (see keys.rename)."""
    block = f"model.layers.{{{group}}}.self_attn"
    return {
        f"{block}.q_proj.weight": Key("layers.{i}.attention.q.weight", ("dim", "dim")),
        f"{block}.k_proj.weight": Key("layers.{i}.attention.k.weight", ("kv", "dim")),
        f"{block}.v_proj.weight": Key("layers.{i}.attention.v.weight", ("kv", "dim")),
        f"{block}.o_proj.weight": Key("layers.{i}.attention.o.weight", ("dim", "dim")),
    }


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
    attention_bias: StrictBool = False
    mlp_bias: StrictBool = False
    tie_word_embeddings: StrictBool = False
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
