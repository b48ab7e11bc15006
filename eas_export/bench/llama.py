"""A plain decoder's weights as a Hugging Face Llama, Qwen2 or Qwen3, which other tools read.

Plain: every attention, no adapters (`--skip none --adapters drop`). On text such a decoder is one of these, whatever family it came from: RoPE
depends on differences of positions only, so where a prompt begins changes nothing, and no token attends to a modality token. One
difference is left: with `config.modality_token` the first token after a prompt has the position of the prompt's last one, as published,
so that logits are equal for prompts only.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from ..bundle.bundle import Bundle
from ..bundle.store import Parameter, write_store
from ..core.configs.decoder import ModelConfig
from ..core.errors import UserError
from ..core.precision import PRECISIONS

PLAIN = {"prefill", "decode"}  # the graphs of a decoder without adapters, beside its tower's
END = 2  # the id of LLaMA's </s>
ONE_WORD = {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}

# Name in the store -> name in the Llama
TOP = {"embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "head.weight": "lm_head.weight"}
LAYER = {
    "norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    **{f"attention.{part}.weight": f"self_attn.{part}_proj.weight" for part in "qkvo"},
    **{f"ffn.{part}.weight": f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")},
}
BIASES = {f"attention.{part}.bias": f"self_attn.{part}_proj.bias" for part in "qkv"}
NORMS = {f"attention.{part}_norm.weight": f"self_attn.{part}_norm.weight" for part in "qk"}
# (qkv_bias, qk_norm) -> the class and the model_type that have these, and their parameters beside LAYER's
CLASSES = {
    (False, False): ("LlamaForCausalLM", "llama", {}),
    (True, False): ("Qwen2ForCausalLM", "qwen2", BIASES),
    (False, True): ("Qwen3ForCausalLM", "qwen3", NORMS),
}
# Fields of ModelConfig that these classes read; norm_offset and scales of residuals and logits are in the weights
EXPRESSED = {
    *(
        "vocab_size",
        "dim",
        "layers",
        "heads",
        "kv_heads",
        "head_dim",
        "ffn_dim",
        "norm_eps",
        "ropes",
        "qkv_bias",
        "qk_norm",
    ),
    *("residual_scale", "logit_scale", "rope_interleaved", "tied_head"),
    *("kind", "family", "site", "modality_token", "first_position", "kept_adapter", "skipped_adapter", "vision"),
}


def require_expressible(config: ModelConfig) -> None:
    """Raise UserError, with the field's name, for a config that none of CLASSES computes."""
    other = [
        name
        for name, field in ModelConfig.model_fields.items()
        if name not in EXPRESSED and getattr(config, name) != field.default
    ]
    if any(rope.scaling or rope.dims for rope in config.ropes):
        other.append("ropes")
    if (config.qkv_bias, config.qk_norm) not in CLASSES:
        other.append("qkv_bias with qk_norm")
    if other:
        what = (
            f"onnxruntime-genai's models are made of plain Llama, Qwen2 and Qwen3, and this one has {', '.join(other)}"
        )
        raise UserError(what, where="onnxruntime-genai", fix="leave this baseline out")


def write_llama(bundle: Bundle, folder: Path, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Write config.json, model.safetensors in the bundle's precision, and a tokenizer of one word, for tools that ask for one.

    folder    is made where it is missing
    on_bytes  is told the bytes of each tensor as it is written; one tensor at a time is in memory

    Raises UserError for a bundle that is not plain, and as require_expressible does.
    """
    m = bundle.manifest
    if {*m.graphs} - {"vision"} != PLAIN or m.plan.skipped:
        what = "the bundle has skipped attentions or adapters, or is not a decoder"
        raise UserError(what, where=bundle.path, fix="build one with --skip none --adapters drop")
    require_expressible(m.config)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": llama_config(bundle),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "tokenizer.json": {"version": "1.0", "added_tokens": [], "model": ONE_WORD},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    write_store(folder / "model.safetensors", _parameters(bundle), on_bytes)


def llama_config(bundle: Bundle) -> dict:
    """config.json of a plain bundle as a model of one of CLASSES."""
    m = bundle.manifest
    c = m.config
    name, kind, _ = CLASSES[c.qkv_bias, c.qk_norm]
    return {
        "architectures": [name],
        "model_type": kind,
        "dtype": PRECISIONS[m.precision].dtype,
        "vocab_size": c.vocab_size,
        "hidden_size": c.dim,
        "intermediate_size": c.ffn_dim,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.ropes[0].theta},
        "max_position_embeddings": m.limits.max_tokens + 1,  # a last token that is chosen and not fed
        "tie_word_embeddings": c.tied_head,
        "bos_token_id": 1,
        "eos_token_id": END,
    }


def half_split(weight: Tensor, heads: int) -> Tensor:
    """The rows of a query or key matrix, [heads * head_dim, dim], reordered from RoPE on the pairs (0, 1), (2, 3), ... to RoPE on the pairs
    (i, i + head_dim/2). Queries and keys that are both reordered have the same products."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)  # [heads, 2, head_dim/2, dim] in between


def _parameters(bundle: Bundle) -> Iterator[Parameter]:
    names, config = dict(TOP), bundle.manifest.config
    layer = LAYER | CLASSES[config.qkv_bias, config.qk_norm][2]
    for i in range(config.layers):
        names |= {f"layers.{i}.{ours}": f"model.layers.{i}.{theirs}" for ours, theirs in layer.items()}
    if config.tied_head:
        del names["head.weight"]
    for ours, theirs in names.items():
        entry = bundle.store.entries[ours]
        yield Parameter(theirs, entry.dtype, entry.shape, f"{bundle.path}: {ours}", partial(_read, bundle, ours))


def _read(bundle: Bundle, name: str) -> Tensor:
    config, tensor = bundle.manifest.config, bundle.store.tensor(name)
    if config.rope_interleaved and name.endswith(("attention.q.weight", "attention.k.weight")):
        return half_split(tensor, len(tensor) // config.head_dim)
    return tensor
