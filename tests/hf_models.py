"""Tiny random text decoders of Hugging Face, as transformers writes them, plain or with PIA adapters: no number in them is neutral."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SIZES = {  # heads, kv heads and width are unrelated
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 80,
    "max_position_embeddings": 64,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},  # a class's own are beyond this vocabulary
}
WINDOW = 6
ALTERNATING = ["sliding_attention", "full_attention"] * 2
SOFTCAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
GEMMA = {"query_pre_attn_scalar": 24, "sliding_window": WINDOW}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: dict[str, dict[str, Any]] = {  # model_type -> what its config says beside SIZES
    "llama": {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16},
    },
    "mistral": {"sliding_window": WINDOW},
    "ministral": {"sliding_window": WINDOW, "layer_types": ALTERNATING},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2, "attention_bias": True},
    "smollm3": {"no_rope_layer_interval": 2},
    "phi3": {"sliding_window": WINDOW, "partial_rotary_factor": 0.5},
    "gemma": {},
    "gemma2": GEMMA | SOFTCAPS,
    "gemma3_text": GEMMA | SOFTCAPS | {"layer_types": ALTERNATING},
    "granite": {
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.25,
        "logits_scaling": 0.25,
    },
}
KEPT_RANK, SKIPPED_RANK = 6, 10


def make_folder(
    folder: str | Path, model_type: str, adapters: Sequence[int] | None = None, seed: int = 0, **overrides: Any
) -> Path:
    """Write config.json and model.safetensors, float32, of random numbers.

    model_type  a key of MODELS
    adapters    the skipped layers, all others kept with an adapter, in LLaVA-EAS's keys; None: a plain model
    overrides   of the config's keys
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(folder)
    config = AutoConfig.for_model(model_type, **(SIZES | MODELS[model_type] | overrides))
    model, random = AutoModelForCausalLM.from_config(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            multiplies = "norm" in name and not model_type.startswith("gemma")  # Gemma's norms multiply by 1 + w
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2 + multiplies)
    model.save_pretrained(folder)
    if adapters is not None:
        tensors = load_file(folder / "model.safetensors")
        for layer in range(config.num_hidden_layers):
            place = f"model.layers.{layer}"
            if layer in adapters:
                tensors = {key: t for key, t in tensors.items() if not key.startswith(f"{place}.self_attn.")}
            name = f"{place}.replaced_adapter" if layer in adapters else f"{place}.adapter_attn"
            tensors |= adapter(name, config.hidden_size, layer in adapters, random)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def adapter(name: str, dim: int, skipped: bool, random: torch.Generator) -> dict[str, Tensor]:
    """One PIA adapter's tensors, by their published keys and in their published shapes."""
    rank = SKIPPED_RANK if skipped else KEPT_RANK
    shapes = {f"conv_{letter}": (rank, dim, 1) for letter in ("AC" if skipped else "A")}
    shapes |= {f"conv_{letter}": (dim, rank // 2, 1) for letter in "BD"} | {"expert_weights": (2, dim)}
    tensors = {}
    for part, shape in shapes.items():
        spread = 4.0 if part == "expert_weights" else 0.2  # the temperature is 10
        tensors[f"{name}.{part}.weight"] = torch.randn(shape, generator=random) * spread
        tensors[f"{name}.{part}.bias"] = torch.randn(shape[0], generator=random) * spread
    return tensors
