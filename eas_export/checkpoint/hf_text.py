"""A text decoder in Hugging Face's form: the keys of its config.json and the names of its tensors, by the rows of architectures.py."""

import reprlib
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..core.errors import UserError
from .architectures import ARCHITECTURES, COMMON, FULL, REFUSED, SLIDING, Architecture
from .hf_files import CONFIG_FILE
from .hf_rope import RopeKeys, read_ropes
from .hugging_face import Flag, HfConfig, Tensors
from .keys import require
from .lazy_tensor import differ
from .quantised import left_over_record

HEAD_KEY = "lm_head.weight"
EMBED_KEY = "model.embed_tokens.weight"
ACTIVATIONS = {  # hidden_act -> ModelConfig.activation
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
Scale = Field(default=None, gt=0, allow_inf_nan=False)
Factor = Field(default=1.0, gt=0, allow_inf_nan=False)


class TextConfig(HfConfig):
    """config.json; what the file leaves out has the default of the architecture's class in transformers."""

    read_as: ClassVar[str | None] = None  # the row, where model_type does not name it

    model_type: str
    hidden_size: int = Field(gt=0, le=1 << 20)
    intermediate_size: int = Field(gt=0, le=1 << 24)
    num_attention_heads: int = Field(gt=0, le=1 << 16)
    num_key_value_heads: int | None = Field(default=None, gt=0, le=1 << 16)
    num_hidden_layers: int = Field(gt=0, le=1000)
    vocab_size: int = Field(gt=0, le=1 << 24)
    rms_norm_eps: float = Field(gt=0, le=1)
    head_dim: int | None = Field(default=None, gt=0, le=1 << 16)
    hidden_act: str
    is_causal: Literal[True] = True
    use_bidirectional_attention: Literal[False, None] = None
    attention_bias: Flag = False
    mlp_bias: Flag = False
    tie_word_embeddings: Flag = False
    ropes: dict[str, RopeKeys]  # by layer type; of all layers where there is one
    sliding_window: int | None = Field(default=None, gt=0)
    max_window_layers: int = 0
    sliding_window_pattern: int = Field(default=1, gt=0)
    layer_types: tuple[str, ...] | None = None
    no_rope_layers: tuple[int, ...] | None = None
    no_rope_layer_interval: int | None = Field(default=None, gt=0)
    query_pre_attn_scalar: float | None = Scale
    attention_multiplier: float | None = Scale
    attn_logit_softcapping: float | None = Scale
    final_logit_softcapping: float | None = Scale
    embedding_multiplier: float = Factor
    residual_multiplier: float = Factor
    logits_scaling: float = Factor

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.read_as or self.model_type]

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def has_rope(self, layer: int) -> bool:
        """Every no_rope_layer_interval-th layer has none, unless no_rope_layers says of each whether it has (1) or not (0)."""
        if self.no_rope_layers is not None:
            return bool(self.no_rope_layers[layer])
        return self.no_rope_layer_interval is None or (layer + 1) % self.no_rope_layer_interval != 0

    def layer_type(self, layer: int) -> str:
        return self.layer_types[layer] if self.layer_types else self.architecture.layer_type(self, layer)

    @model_validator(mode="before")
    @classmethod
    def _as_transformers_reads_it(cls, values: Any) -> Any:
        """The file's keys with the row's defaults, without those that the row does not read, and RoPE in one form."""
        if not isinstance(values, dict):
            return values
        kind = cls.read_as or values.get("model_type")
        row = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
        if row is None:
            why = REFUSED.get(kind) if isinstance(kind, str) else None
            why = why or ("a vision tower" if "vision_config" in values else None)
            said = f"{reprlib.repr(kind)}, a model with {why}" if why else reprlib.repr(kind)
            raise ValueError(f"model_type is {said}: only {', '.join(ARCHITECTURES)} are supported")
        values = {**row.defaults, **values}
        given = values.get(row.activation, row.defaults["hidden_act"])
        own = {"hidden_act": row.older_activations.get(given, given), "ropes": read_ropes(values, row)}
        if "use_sliding_window" in row.reads and not values["use_sliding_window"]:
            own["sliding_window"] = None
        read = {
            key: value
            for key, value in values.items()
            if key in (*COMMON, *row.reads) or key not in TextConfig.model_fields
        }
        return read | own

    @model_validator(mode="after")
    def _fits_together(self) -> "TextConfig":
        if self.head_dim is None and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads of even size"
            )
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"num_key_value_heads {self.kv_heads} does not divide num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            key = self.architecture.activation
            raise ValueError(f"{key} is {reprlib.repr(self.hidden_act)}: only {known} are supported")
        for key in ("layer_types", "no_rope_layers"):
            entries = getattr(self, key)
            if entries is not None and len(entries) != self.num_hidden_layers:
                raise ValueError(f"{key} has {len(entries)} entries for {self.num_hidden_layers} layers")
        for kind in self.layer_types or ():
            if kind not in (FULL, SLIDING):
                raise ValueError(f"layer_types has {reprlib.repr(kind)}: only {FULL} and {SLIDING} are supported")
        types = map(self.layer_type, range(self.num_hidden_layers))
        if self.sliding_window is None and SLIDING in types:
            raise ValueError(f"there are layers of type {SLIDING}, but there is no sliding_window, or it is not used")
        return self

    def notes(self) -> tuple[str, ...]:
        """What a user should know: a quantisation that is left over, and which factors LongRoPE takes."""
        lengths = {keys.original_max_position_embeddings for keys in self.ropes.values() if keys.long_factor}
        said = "a bundle of more than {0} tokens (--max-tokens) has LongRoPE's long factors for every prompt, one of up to {0} its short ones"
        return (*left_over_record(self.quantization_config), *map(said.format, lengths))

    def model_fields_of(self) -> dict[str, Any]:
        """The fields of a ModelConfig (core/configs/decoder.py) that config.json says."""
        kinds, layers = list(self.ropes), []
        for i in range(self.num_hidden_layers):
            kind = self.layer_type(i)
            rope = (kinds.index(kind) if kind in kinds else 0) if self.has_rope(i) else None
            layers.append({"rope": rope, "window": self.sliding_window if kind == SLIDING else None})
        plain = all(layer == {"rope": 0, "window": None} for layer in layers)
        row, scalar = self.architecture, self.query_pre_attn_scalar
        return {
            "vocab_size": self.vocab_size,
            "dim": self.hidden_size,
            "layers": self.num_hidden_layers,
            "heads": self.num_attention_heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_size,
            "ffn_dim": self.intermediate_size,
            "norm_eps": self.rms_norm_eps,
            "rope_interleaved": False,
            "ropes": tuple(keys.rope(self.head_size) for keys in self.ropes.values()),
            "layer_attention": () if plain else tuple(layers),
            "activation": ACTIVATIONS[self.hidden_act],
            "attention_scale": scalar**-0.5 if scalar else self.attention_multiplier,
            "attention_softcap": self.attn_logit_softcapping,
            "logit_softcap": self.final_logit_softcapping,
            "embedding_scale": self.hidden_size**0.5 if row.scales_embeddings else self.embedding_multiplier,
            "residual_scale": self.residual_multiplier,
            "logit_scale": 1 / self.logits_scaling,
            "qkv_bias": self.attention_bias,
            "o_bias": self.attention_bias,
            "ffn_bias": self.mlp_bias,
            **row.fixed,
        }


def tie(published: Tensors, config: TextConfig) -> tuple[Tensors, bool, tuple[str, ...]]:
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


def require_vocabulary(config: TextConfig, published: Tensors, folder: Path) -> None:
    """Raise UserError where the embedding does not match the config."""
    rows = require(published, EMBED_KEY, 2, str(folder))[0]
    if rows != config.vocab_size:
        what = f"vocab_size is {config.vocab_size}, but {EMBED_KEY} has {rows} rows"
        raise UserError(what, where=folder / CONFIG_FILE, fix="give the config.json that belongs to these weights")
