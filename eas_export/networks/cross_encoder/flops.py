"""Floating-point operations of all matrix products of a cross-encoder for one row, from its config alone; the functions for single
products serve other networks, too.

A product of [n, k] with [k, m] is 2 n k m operations: every multiply and every add. Norms, activations, softmax and sums are not
counted, as usual.
"""

from collections import Counter
from collections.abc import Iterable

from ...checkpoint.eas_adapter import GROUPS
from ...core.configs.cross_encoder import BottleneckConfig, CrossEncoderConfig
from ...core.configs.vit import VitConfig


def flops(config: CrossEncoderConfig, skipped: Iterable[int], adapters: bool) -> dict[str, int]:
    """Part of the network -> operations per row.

    skipped   sites that are replaced
    adapters  True: adapters before attentions and feed-forward networks are computed; False: those that can be are folded into the weights
    """
    dim, images, gone = config.dim, config.images, config.attentions(skipped)
    before = (
        config.before_adapter if adapters or (config.before_adapter and not config.before_adapter.is_linear) else None
    )
    tokens = {"text": config.text_length, "image": config.image_tokens}
    counts = dict.fromkeys(("attention", "replacements", "feed-forward", "adapters"), 0)
    for stream, other in (("text", "image"), ("image", "text")):
        n, others = tokens[stream], {"attention": tokens[stream], "cross_attention": tokens[other]}
        replaced = Counter(part for side, part, _ in gone if side == stream)
        for part, keys in others.items():
            kept = config.layers - replaced[part]
            counts["attention"] += kept * attention(n, keys, dim)
            counts["adapters"] += kept * (_before(n, dim, before) + _bottleneck(n, dim, config.beside_adapter))
        if config.site == "layer":
            layers = config.layers - replaced["attention"]
            counts["replacements"] += replaced["attention"] * _bottleneck(n, dim, config.skipped_adapter)
        else:
            layers = config.layers
            counts["replacements"] += replaced.total() * _replacement(n, dim, config.skipped_adapter)
        counts["feed-forward"] += layers * 2 * linear(n, dim, config.ffn_dim)
        counts["adapters"] += layers * (_before(n, dim, before) + _bottleneck(n, dim, config.behind_adapter))
    return {
        "text encoder": _text(config) + linear(config.text_length, config.text.width, dim),
        "image encoder": images * (vit(config.image) + linear(config.image_tokens, config.image.width, dim)),
        **{f"cross-modal {part}": images * count for part, count in counts.items()},
        "head": images * 2 * linear(1, dim, dim) + _head(config),
    }


def linear(rows: int, into: int, out: int) -> int:
    """A product of [rows, into] with [into, out]."""
    return 2 * rows * into * out


def attention(queries: int, keys: int, width: int) -> int:
    """q and o of the queries, k and v of the keys, scores and their product with v."""
    return 2 * linear(queries, width, width) + 2 * linear(keys, width, width) + 2 * linear(queries, width, keys)


def _bottleneck(rows: int, width: int, adapter: BottleneckConfig | None) -> int:
    """down and up of every token."""
    return 2 * linear(rows, width, adapter.rank) if adapter else 0


def _before(rows: int, width: int, adapter: BottleneckConfig | None) -> int:
    """C, and B in its groups."""
    return _bottleneck(rows, width, adapter) * (GROUPS + 1) // (2 * GROUPS)


def _replacement(rows: int, width: int, adapter: BottleneckConfig | None) -> int:
    """down and up of every token, pool of their mean."""
    return _bottleneck(rows, width, adapter) + _bottleneck(1, width, adapter) // 2


def _head(config: CrossEncoderConfig) -> int:
    width, inner = 2 * config.dim * config.images, 2 * config.dim
    if config.task == "retrieval":
        return linear(1, width, config.answers)
    return linear(1, width, inner) + linear(1, inner, config.answers)


def _text(config: CrossEncoderConfig) -> int:
    text, n = config.text, config.text_length
    return text.layers * (attention(n, n, text.width) + 2 * linear(n, text.width, text.ffn_dim))


def vit(image: VitConfig) -> int:
    """The patch embedding and the blocks, for one image."""
    n, width = image.patches + 1, image.width
    blocks = image.blocks * (attention(n, n, width) + 2 * linear(n, width, image.ffn_dim))
    return linear(image.patches, 3 * image.patch_size**2, width) + blocks
