"""A decoder's config in words."""

from ...core.configs.adapter import AdapterConfig, Router
from ...core.configs.decoder import ModelConfig

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
            f"{config.layers} of width {config.dim}, {config.heads} heads ({config.kv_heads} of keys and values), feed-forward {config.ffn_dim}, vocabulary {config.vocab_size}",
        ],
        [
            "adapter ranks",
            f"kept {_rank(config.kept_adapter)}, skipped {_rank(config.skipped_adapter)}, vision {_rank(vision and vision.adapter)}",
        ],
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


def _rank(adapter: AdapterConfig | None) -> str:
    return "none" if adapter is None else str(adapter.rank)
