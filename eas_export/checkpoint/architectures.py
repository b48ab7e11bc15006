"""The text decoders of Hugging Face that are read, one row each: what a class in transformers leaves out of config.json, and in what it differs
from LLaMA. Sources: the configuration and modeling files of transformers 5.24.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

FULL, SLIDING = "full_attention", "sliding_attention"  # layer types

# Published norms of a layer -> ours
PRE_NORMS = {"input_layernorm": "norm", "post_attention_layernorm": "ffn_norm"}
SANDWICH_NORMS = {
    "input_layernorm": "norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffn_norm",
}

# Keys of config.json that every row reads
COMMON = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "is_causal"),
    *("model_type", "quantization_config"),
}
# Names of RoPE scalings, each with the form of core/configs/rope.py that it has
ROPE_TYPES = {kind: kind for kind in ("default", "linear", "llama3", "yarn", "longrope")}
PHI_ROPE_TYPES = {"default": "default", **dict.fromkeys(("longrope", "su", "yarn"), "longrope")}


class Layers(Protocol):
    """What the types of layers depend on, where config.json does not list them."""

    sliding_window: int | None
    max_window_layers: int
    sliding_window_pattern: int

    def has_rope(self, layer: int) -> bool: ...


LayerType = Callable[[Layers, int], str]  # (config, layer) -> FULL or SLIDING


@dataclass(frozen=True)
class Architecture:
    """A row.

    class_    of the model in transformers
    models    well-known ones, for people
    defaults  of keys that config.json leaves out
    reads     keys that change what the model computes, beyond COMMON, RoPE's and the activation's; transformers ignores all others
    fixed     fields of ModelConfig that no key says
    norms     of a layer
    fused     q, k and v are one tensor, gate and up another
    layer_type  where config.json has no layer_types
    activation  the key of the feed-forward network's, and older spellings of its value
    scales_embeddings  by the square root of hidden_size
    theta     of RoPE
    local_theta  of the RoPE of layers with a window; None: they have the same RoPE
    rope_types  in its config.json -> in ROPE_TYPES
    """

    class_: str
    models: str
    defaults: Mapping[str, Any]
    reads: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=lambda: PRE_NORMS)
    fused: bool = False
    layer_type: LayerType = lambda config, layer: FULL
    activation: str = "hidden_act"
    older_activations: Mapping[str, str] = field(default_factory=dict)
    scales_embeddings: bool = False
    theta: float = 10_000.0
    local_theta: float | None = None
    rope_types: Mapping[str, str] = field(default_factory=lambda: ROPE_TYPES)

    def has(self, name: str) -> bool:
        """Whether a field of ModelConfig is set in every model of the row."""
        return bool(self.fixed.get(name))


def _defaults(
    vocab: int, dim: int, ffn: int, layers: int, heads: int, kv_heads: int | None, positions: int, **more: Any
) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        **more,
    }


_QWEN_WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_QWEN = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
_GEMMA = {"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
_GEMMA_2 = {"query_pre_attn_scalar": 256, "sliding_window": 4096}
_GEMMA_READS = ("attention_bias", "use_bidirectional_attention")
_GEMMA_2_READS = (*_GEMMA_READS, "sliding_window", "layer_types", "query_pre_attn_scalar", "final_logit_softcapping")


def _in_all(config: Layers, layer: int) -> str:
    return SLIDING if config.sliding_window else FULL


def _from_max_window_layers(config: Layers, layer: int) -> str:
    return SLIDING if config.sliding_window and layer >= config.max_window_layers else FULL


def _where_no_rope(config: Layers, layer: int) -> str:
    return SLIDING if config.sliding_window and not config.has_rope(layer) else FULL


def _but_each(config: Layers, layer: int) -> str:
    return SLIDING if (layer + 1) % config.sliding_window_pattern else FULL


ARCHITECTURES: dict[str, Architecture] = {  # by model_type
    "llama": Architecture(
        "LlamaForCausalLM",
        "Llama 2, 3, 3.1, 3.2 and 3.3, SmolLM, SmolLM2, TinyLlama, Vicuna",
        _defaults(32000, 4096, 11008, 32, 32, None, 2048),
        reads=("attention_bias", "mlp_bias"),
    ),
    "mistral": Architecture(
        "MistralForCausalLM",
        "Mistral 7B v0.1 to v0.3, Mistral Nemo",
        _defaults(32000, 4096, 14336, 32, 32, 8, 131072, sliding_window=4096),
        reads=("sliding_window",),
        layer_type=_in_all,
    ),
    "ministral": Architecture(
        "MinistralForCausalLM",
        "Ministral 8B",
        _defaults(32000, 4096, 14336, 32, 32, 8, 131072, sliding_window=4096),
        reads=("sliding_window", "layer_types"),
        layer_type=_in_all,
    ),
    "qwen2": Architecture(
        "Qwen2ForCausalLM",
        "Qwen2, Qwen2.5",
        _defaults(151936, 4096, 22016, 32, 32, 32, 32768, **_QWEN),
        reads=_QWEN_WINDOWS,
        fixed={"qkv_bias": True},
        layer_type=_from_max_window_layers,
    ),
    "qwen3": Architecture(
        "Qwen3ForCausalLM",
        "Qwen3",
        _defaults(151936, 4096, 22016, 32, 32, 32, 32768, head_dim=128, **_QWEN),
        reads=("attention_bias", *_QWEN_WINDOWS),
        fixed={"qk_norm": True},
        layer_type=_from_max_window_layers,
    ),
    "smollm3": Architecture(
        "SmolLM3ForCausalLM",
        "SmolLM3",
        _defaults(
            *(128256, 2048, 11008, 36, 16, 4, 32768),
            **{"use_sliding_window": False, "no_rope_layer_interval": 4, "tie_word_embeddings": True},
        ),
        reads=(
            *("attention_bias", "mlp_bias", "no_rope_layers", "no_rope_layer_interval"),
            *("sliding_window", "use_sliding_window", "layer_types"),
        ),
        layer_type=_where_no_rope,
        theta=2_000_000.0,
    ),
    "phi3": Architecture(
        "Phi3ForCausalLM",
        "Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
        _defaults(32064, 3072, 8192, 32, 32, None, 4096, original_max_position_embeddings=4096, rms_norm_eps=1e-5),
        reads=("sliding_window", "partial_rotary_factor"),
        fused=True,
        layer_type=_in_all,
        rope_types=PHI_ROPE_TYPES,
    ),
    "gemma": Architecture(
        "GemmaForCausalLM",
        "Gemma 1",
        _defaults(256000, 3072, 24576, 28, 16, 16, 8192, **_GEMMA),
        reads=_GEMMA_READS,
        fixed={"norm_offset": True},
        older_activations={"gelu": "gelu_pytorch_tanh"},
        scales_embeddings=True,
    ),
    "gemma2": Architecture(
        "Gemma2ForCausalLM",
        "Gemma 2",
        _defaults(
            *(256000, 2304, 9216, 26, 8, 4, 8192),
            **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, **_GEMMA, **_GEMMA_2},
        ),
        reads=(*_GEMMA_2_READS, "attn_logit_softcapping"),
        fixed={"norm_offset": True, "sandwich_norms": True},
        norms=SANDWICH_NORMS,
        layer_type=lambda config, layer: SLIDING if (layer + 1) % 2 else FULL,
        activation="hidden_activation",
        scales_embeddings=True,
    ),
    "gemma3_text": Architecture(
        "Gemma3ForCausalLM",
        "Gemma 3 1B and 270M",
        _defaults(262208, 2304, 9216, 26, 8, 4, 131072, sliding_window_pattern=6, **_GEMMA, **_GEMMA_2),
        reads=(*_GEMMA_2_READS, "sliding_window_pattern"),
        fixed={"norm_offset": True, "sandwich_norms": True, "qk_norm": True},
        norms=SANDWICH_NORMS,
        layer_type=_but_each,
        activation="hidden_activation",
        scales_embeddings=True,
        theta=1_000_000.0,
        local_theta=10_000.0,
    ),
    "granite": Architecture(
        "GraniteForCausalLM",
        "Granite 3.0 to 3.3",
        _defaults(
            *(32000, 4096, 11008, 32, 32, None, 2048),
            **dict.fromkeys(
                ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"), 1.0
            ),
        ),
        reads=(
            *("attention_bias", "mlp_bias", "embedding_multiplier", "residual_multiplier"),
            *("attention_multiplier", "logits_scaling"),
        ),
    ),
}

# model_type -> why it is not read
REFUSED: dict[str, str] = {
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "phimoe", "olmoe"), "a mixture of experts"),
    "gpt_oss": "a mixture of experts with attention sinks",
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), "a mixture of experts with multi-head latent attention"),
    **dict.fromkeys(
        ("phi", "gptj", "gpt_neox", "falcon", "cohere", "cohere2"), "attention and feed-forward network side by side"
    ),
    **dict.fromkeys(("gpt2", "opt"), "LayerNorm and learned positions"),
    **dict.fromkeys(("starcoder2", "stablelm"), "LayerNorm"),
    "olmo2": "norms behind attention and feed-forward network only",
    "gemma3n_text": "layers that share keys and values",
    **dict.fromkeys(("llama4", "llama4_text"), "a mixture of experts with attention in chunks"),
    **dict.fromkeys(
        ("gemma3", "mistral3", "qwen2_vl", "qwen2_5_vl", "mllama", "paligemma", "idefics3", "smolvlm"), "a vision tower"
    ),
}
