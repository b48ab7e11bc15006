"""A cross-encoder's config in words."""

from ...core.configs.cross_encoder import CrossEncoderConfig

READINGS = {
    "published": "the image stream's self-attentions again, as published",
    "paper": "the image stream's cross-attentions, as in the paper",
}


def describe(config: CrossEncoderConfig) -> list[list[str]]:
    """Rows of a name and a description."""
    text, image = config.text, config.image
    streams = f"{config.layers} layers each of width {config.dim}, {config.heads} heads, feed-forward {config.ffn_dim}"
    return [
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
        ["adapter ranks", f"those that fold {config.adapter_rank}, of skipped attentions {config.skipped_rank}"],
        ["sites 18-23 of 24" if config.sites == 24 else "last group of sites", READINGS[config.image_cross_reading]],
    ]
