"""The text decoders of Hugging Face that are read, one row each: what a class in transformers leaves out of config.json, and in what it differs
from LLaMA. Sources: the configuration and modeling files of transformers 5.24.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"  # layer types
Config = Any  # hf_text.TextConfig, which reads the table
LayerType = Callable[[Config, int], str]

# Published norms of a layer -> ours
PRE_NORMS = {"input_layernorm": "norm", "post_attention_layernorm": "ffn_norm"}
SANDWICH_NORMS = {
    "input_layernorm": "norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffn_norm",
}

# Published parts of a layer whose rows are several of ours, one after the other
FUSED = {"self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"), "mlp.gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True)
class Architecture:
    """A row.

    class_    of the model in transformers
    defaults  of keys that config.json leaves out
    reads     keys that change what the model computes, beyond those of every row (hf_text.COMMON)
    fixed     fields of ModelConfig that no key says
    biases    fields of ModelConfig that attention_bias sets
    norms     of a layer
    fused     q, k and v are one tensor, gate and up another
    layer_type  (config, layer) -> its type, where config.json has no layer_types
    activation  the key of the feed-forward network's
    embedding_scale  (config) -> what multiplies token embeddings
    theta     of RoPE
    local_theta  of the RoPE of layers with a window; None: they have the same RoPE
    """

    class_: str
    defaults: Mapping[str, Any]
    reads: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    biases: tuple[str, ...] = ("qkv_bias", "o_bias")
    norms: Mapping[str, str] = field(default_factory=lambda: PRE_NORMS)
    fused: bool = False
    layer_type: LayerType = lambda config, layer: FULL
    activation: str = "hidden_act"
    embedding_scale: Callable[[Config], float] = lambda config: config.embedding_multiplier or 1.0
    theta: float = 10_000.0
    local_theta: float | None = None


def _sizes(
    vocab: int, dim: int, ffn: int, layers: int, heads: int, kv_heads: int | None, **more: Any
) -> dict[str, Any]:
    """The defaults of the keys that every architecture has."""
    return {
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        **more,
    }


_WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_GEMMA = {"norm_offset": True}
_GEMMA_SOFTCAPS = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
_GEMMA_DEFAULTS = {"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}


def _root_of_width(config: Config) -> float:
    return config.hidden_size**0.5


def _from_max_window_layers(config: Config, layer: int) -> str:
    return SLIDING if config.sliding_window and layer >= config.max_window_layers else FULL


def _without_rope(config: Config, layer: int) -> str:
    return FULL if config.has_rope(layer) or not config.sliding_window else SLIDING


ARCHITECTURES: dict[str, Architecture] = {  # by model_type
    "llama": Architecture(
        "LlamaForCausalLM",
        _sizes(32000, 4096, 11008, 32, 32, None, max_position_embeddings=2048),
        reads=("mlp_bias",),
    ),
    "mistral": Architecture(
        "MistralForCausalLM",
        _sizes(32000, 4096, 14336, 32, 32, 8, max_position_embeddings=131072, sliding_window=4096),
        reads=("sliding_window",),
        layer_type=lambda config, layer: SLIDING,
    ),
    "ministral": Architecture(
        "MinistralForCausalLM",
        _sizes(32000, 4096, 14336, 32, 32, 8, max_position_embeddings=131072, sliding_window=4096),
        reads=("sliding_window", "layer_types"),
        layer_type=lambda config, layer: SLIDING,
    ),
    "qwen2": Architecture(
        "Qwen2ForCausalLM",
        _sizes(
            151936,
            4096,
            22016,
            32,
            32,
            32,
            max_position_embeddings=32768,
            sliding_window=4096,
            use_sliding_window=False,
            max_window_layers=28,
        ),
        reads=_WINDOWS,
        fixed={"qkv_bias": True},
        layer_type=_from_max_window_layers,
    ),
    "qwen3": Architecture(
        "Qwen3ForCausalLM",
        _sizes(
            151936,
            4096,
            22016,
            32,
            32,
            32,
            max_position_embeddings=32768,
            head_dim=128,
            sliding_window=4096,
            use_sliding_window=False,
            max_window_layers=28,
        ),
        reads=_WINDOWS,
        fixed={"qk_norm": True},
        layer_type=_from_max_window_layers,
    ),
    "smollm3": Architecture(
        "SmolLM3ForCausalLM",
        _sizes(
            128256,
            2048,
            11008,
            36,
            16,
            4,
            max_position_embeddings=32768,
            use_sliding_window=False,
            no_rope_layer_interval=4,
            tie_word_embeddings=True,
        ),
        reads=(
            "mlp_bias",
            "no_rope_layers",
            "no_rope_layer_interval",
            "sliding_window",
            "use_sliding_window",
            "layer_types",
        ),
        layer_type=_without_rope,
        theta=2_000_000.0,
    ),
    "phi3": Architecture(
        "Phi3ForCausalLM",
        _sizes(
            32064,
            3072,
            8192,
            32,
            32,
            None,
            max_position_embeddings=4096,
            original_max_position_embeddings=4096,
            rms_norm_eps=1e-5,
        ),
        reads=("sliding_window", "partial_rotary_factor", "original_max_position_embeddings"),
        biases=(),
        fused=True,
        layer_type=lambda config, layer: SLIDING,
    ),
    "gemma": Architecture(
        "GemmaForCausalLM",
        _sizes(256000, 3072, 24576, 28, 16, 16, max_position_embeddings=8192, **_GEMMA_DEFAULTS),
        fixed=_GEMMA,
        embedding_scale=_root_of_width,
    ),
    "gemma2": Architecture(
        "Gemma2ForCausalLM",
        _sizes(
            256000,
            2304,
            9216,
            26,
            8,
            4,
            max_position_embeddings=8192,
            query_pre_attn_scalar=256,
            sliding_window=4096,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            **_GEMMA_DEFAULTS,
        ),
        reads=("sliding_window", "layer_types", *_GEMMA_SOFTCAPS),
        fixed=_GEMMA | {"sandwich_norms": True},
        norms=SANDWICH_NORMS,
        activation="hidden_activation",
        embedding_scale=_root_of_width,
        layer_type=lambda config, layer: FULL if (layer + 1) % 2 == 0 else SLIDING,
    ),
    "gemma3_text": Architecture(
        "Gemma3ForCausalLM",
        _sizes(
            262208,
            2304,
            9216,
            26,
            8,
            4,
            max_position_embeddings=131072,
            query_pre_attn_scalar=256,
            sliding_window=4096,
            sliding_window_pattern=6,
            **_GEMMA_DEFAULTS,
        ),
        reads=("sliding_window", "layer_types", "sliding_window_pattern", "rope_local_base_freq", *_GEMMA_SOFTCAPS),
        fixed=_GEMMA | {"sandwich_norms": True, "qk_norm": True},
        norms=SANDWICH_NORMS,
        activation="hidden_activation",
        embedding_scale=_root_of_width,
        layer_type=lambda config, layer: FULL if (layer + 1) % config.sliding_window_pattern == 0 else SLIDING,
        theta=1_000_000.0,
        local_theta=10_000.0,
    ),
    "granite": Architecture(
        "GraniteForCausalLM",
        _sizes(
            32000,
            4096,
            11008,
            32,
            32,
            None,
            max_position_embeddings=2048,
            embedding_multiplier=1.0,
            residual_multiplier=1.0,
            attention_multiplier=1.0,
            logits_scaling=1.0,
        ),
        reads=("mlp_bias", "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"),
    ),
}

# Keys that other rows read -> the values with which they change nothing: others are refused by name in a row that does not read them.
# transformers would ignore them there, but whoever wrote them meant something
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None, 0),
    "partial_rotary_factor": (1.0, None),
    "query_pre_attn_scalar": (None,),
    "attn_logit_softcapping": (None, 0.0),
    "final_logit_softcapping": (None, 0.0),
    "embedding_multiplier": (1.0, None),
    "residual_multiplier": (1.0, None),
    "attention_multiplier": (None,),
    "logits_scaling": (1.0, None),
    "no_rope_layers": (None,),
    "is_causal": (True, None),
    "use_bidirectional_attention": (False, None),
    "clip_qkv": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
}
# model_type -> why it is not read
REFUSED: dict[str, str] = {
    "mixtral": "a mixture of experts",
    "qwen2_moe": "a mixture of experts",
    "qwen3_moe": "a mixture of experts",
    "granitemoe": "a mixture of experts",
    "gpt_oss": "a mixture of experts with attention sinks",
    "deepseek_v2": "a mixture of experts with multi-head latent attention",
    "deepseek_v3": "a mixture of experts with multi-head latent attention",
    "phi": "attention and feed-forward network side by side",
    "gptj": "attention and feed-forward network side by side",
    "gpt_neox": "attention and feed-forward network side by side",
    "falcon": "attention and feed-forward network side by side",
    "cohere": "attention and feed-forward network side by side",
    "cohere2": "attention and feed-forward network side by side",
    "gpt2": "LayerNorm and learned positions",
    "olmo2": "norms behind attention and feed-forward network only",
    "gemma3n_text": "layers that share keys and values",
    "gemma3": "a vision tower",
    "mistral3": "a vision tower",
    "qwen2_vl": "a vision tower",
    "qwen2_5_vl": "a vision tower",
}
