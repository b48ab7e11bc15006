"""A decoder's config in words."""

from ...core.configs.adapter import AdapterConfig
from ...core.configs.decoder import ModelConfig


def describe(config: ModelConfig) -> list[list[str]]:
    """Rows of a name and a description."""
    vision = config.vision
    return [
        [
            "layers",
            f"{config.layers} of width {config.dim}, {config.heads} heads ({config.kv_heads} of keys and values), feed-forward {config.ffn_dim}, vocabulary {config.vocab_size}",
        ],
        [
            "adapter ranks",
            f"kept {_rank(config.kept_adapter)}, skipped {_rank(config.skipped_adapter)}, vision {_rank(vision and vision.adapter)}",
        ],
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


def _rank(adapter: AdapterConfig | None) -> str:
    return "none" if adapter is None else str(adapter.rank)
