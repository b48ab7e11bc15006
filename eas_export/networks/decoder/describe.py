"""A decoder's config in words."""

from collections import Counter

from ...core.configs.adapter import Router
from ...core.configs.decoder import ModelConfig
from ...core.configs.rope import LayerAttention, Rope

ROUTERS: dict[Router, str] = {  # what their weights depend on; "prompt", EAS's own, needs no word
    "modality": "the modality token alone: two pairs of weights, with an image and without, known when the model is built",
    "constant": "nothing but whether there is an image: two pairs of weights in a table, made when the model was built",
    "folded": "nothing but whether there is an image: folded into q, k and v when the model was built, once for each",
    "token": "each token on its own",
}


def describe(config: ModelConfig) -> list[list[str]]:
    """Rows of a name and a description."""
    vision = config.vision
    return [
        [
            "layers",
            f"{config.layers} of width {config.dim}, {config.heads} heads of {config.head_dim} ({config.kv_heads} of keys and values), feed-forward {config.ffn_dim}, vocabulary {config.vocab_size}",
        ],
        ["attention", _attention(config)],
        *([["also", "; ".join(also)]] if (also := _also(config)) else []),
        ["adapter ranks", _ranks(config)],
        *(
            [name, ROUTERS[adapter.router]]
            for name, adapter in {"routers read": config.kept_adapter, "the tower's": vision and vision.adapter}.items()
            if adapter and adapter.router in ROUTERS
        ),
        *(
            [["scale, temperature", f"{config.kept_adapter.scale:g}, {config.kept_adapter.temperature:g}"]]
            if config.kept_adapter
            else []
        ),
        [
            "vision",
            f"{vision.blocks} blocks of width {vision.width}, {vision.image_size} pixels, {vision.tokens} tokens per image"
            if vision
            else "none: a text-only model",
        ],
    ]


def _attention(config: ModelConfig) -> str:
    """What its layers do, and how many of them where not all do the same."""
    kinds = Counter(map(config.attention_of, range(config.layers)))
    words = [(_kind(config, kind), count) for kind, count in kinds.items()]
    return "; ".join(word if len(words) == 1 else f"{word} in {count} layers" for word, count in words)


def _kind(config: ModelConfig, kind: LayerAttention) -> str:
    positions = "no RoPE" if kind.rope is None else _rope(config, config.ropes[kind.rope])
    return f"{positions}, a window of {kind.window} tokens" if kind.window else positions


def _rope(config: ModelConfig, rope: Rope) -> str:
    part = f" of {rope.dims} of {config.head_dim}" if rope.dims else ""
    factor = getattr(rope.scaling, "factor", None)
    by = f" by {factor:g}" if factor else ""
    return f"RoPE{part}, theta {rope.theta:,.0f}" + (f", {rope.scaling.kind} scaling{by}" if rope.scaling else "")


def _also(config: ModelConfig) -> list[str]:
    """In what else it differs from LLaMA, as far as a checkpoint's reader can see it."""
    biased = {"q, k, v": config.qkv_bias, "o": config.o_bias, "gate, up, down": config.ffn_bias}
    said = {
        f"biases of {', '.join(part for part, has in biased.items() if has)}": any(biased.values()),
        "norms of queries and keys": config.qk_norm,
        "norms behind attention and feed-forward": config.sandwich_norms,
        f"activation {config.activation}": config.activation != "silu",
        f"attention scale {config.attention_scale or 0:g}": config.attention_scale,
        f"attention softcap {config.attention_softcap or 0:g}": config.attention_softcap,
        f"logit softcap {config.logit_softcap or 0:g}": config.logit_softcap,
        f"embedding scale {config.embedding_scale:g}": config.embedding_scale != 1,
        f"residual scale {config.residual_scale:g}": config.residual_scale != 1,
        f"logit scale {config.logit_scale:g}": config.logit_scale != 1,
        "the embedding is the head": config.tied_head,
    }
    return [word for word, holds in said.items() if holds]


def _ranks(config: ModelConfig) -> str:
    adapters = {"kept": config.kept_adapter, "skipped": config.skipped_adapter}
    adapters |= {"vision": config.vision.adapter} if config.vision else {}
    if not any(adapters.values()):
        return "none: a model without adapters"
    return ", ".join(f"{name} {adapter.rank if adapter else 'none'}" for name, adapter in adapters.items())
