"""A cross-encoder's config in words."""

from ...core.configs.cross_encoder import BottleneckConfig, CrossEncoderConfig

READINGS = {
    "published": "the image stream's self-attentions again, as published",
    "paper": "the image stream's cross-attentions, as in the paper",
}


def describe(config: CrossEncoderConfig) -> list[list[str]]:
    """Rows of a name and a description."""
    text, image = config.text, config.image
    streams = f"{config.layers} layers each of width {config.dim}, {config.heads} heads, feed-forward {config.ffn_dim}"
    rows = [
        [
            "task",
            f"{config.task}, answers chosen among {config.answers}"
            if config.answers > 1
            else f"{config.task}, a score",
        ],
        ["text and image stream", streams],
        [
            "text encoder",
            f"{text.layers} layers of width {text.width}, {text.heads} heads, vocabulary {text.vocab_size}, {config.text_length} tokens",
        ],
        [
            "image encoder",
            f"{image.blocks} blocks of width {image.width}, {image.image_size} pixels, {config.image_tokens} tokens",
        ],
    ]
    return rows + _adapters(config)


def _adapters(config: CrossEncoderConfig) -> list[list[str]]:
    folded = ", folded into its weights" if config.before_adapter and config.before_adapter.is_linear else ""
    places = {
        f"before each kept attention and feed-forward network{folded}": config.before_adapter,
        "beside each kept attention": config.beside_adapter,
        "behind each kept feed-forward network": config.behind_adapter,
        f"in place of each skipped {config.site}": config.skipped_adapter,
    }
    rows = [["adapters", f"rank {each.rank} {place}{_form(each)}"] for place, each in places.items() if each]
    if config.skipped_adapter and config.site == "attention":
        last = f"sites {3 * config.layers}-{4 * config.layers - 1} of {config.sites}"
        rows.append([last, READINGS[config.image_cross_reading]])
    return rows or [["adapters", "none"]]


def _form(adapter: BottleneckConfig) -> str:
    """What an adapter has between its products, and before them."""
    parts = [adapter.activation] * (adapter.activation != "none") + ["norm"] * (adapter.norm_eps is not None)
    return f" ({', '.join(parts)})" if parts else ""
