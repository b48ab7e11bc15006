"""Floating-point operations of all matrix products of a cross-encoder for one row, from its config alone; the functions for single
products serve other networks, too.

A product of [n, k] with [k, m] is 2 n k m operations: every multiply and every add. Norms, activations, softmax and sums are not
counted, as usual.
"""

from collections.abc import Iterable

from ...checkpoint.eas_adapter import GROUPS
from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.configs.vit import VitConfig


def flops(config: CrossEncoderConfig, skipped: Iterable[int], adapters: bool) -> dict[str, int]:
    """Part of the network -> operations per row.

    skipped   sites whose attention is replaced
    adapters  True: adapters before attentions and feed-forward networks are computed; False: they are folded into the weights
    """
    dim, images, gone = config.dim, config.images, config.attentions(skipped)
    tokens = {"text": config.text_length, "image": config.image_tokens}
    counts = dict.fromkeys(("attention", "replacements", "feed-forward", "adapters"), 0)
    for stream, other in (("text", "image"), ("image", "text")):
        n, others = tokens[stream], {"attention": tokens[stream], "cross_attention": tokens[other]}
        replaced = [part for side, part, _ in gone if side == stream]
        for part, keys in others.items():
            kept = config.layers - replaced.count(part)
            counts["attention"] += kept * attention(n, keys, dim)
            counts["adapters"] += kept * _adapter(n, dim, config.adapter_rank)
        counts["replacements"] += len(replaced) * _replacement(n, dim, config.skipped_rank)
        counts["feed-forward"] += config.layers * 2 * linear(n, dim, config.ffn_dim)
        counts["adapters"] += config.layers * _adapter(n, dim, config.adapter_rank)
    if not adapters:
        counts["adapters"] = 0
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


def _adapter(rows: int, width: int, rank: int) -> int:
    """C, and B in its groups."""
    return linear(rows, width, rank) + linear(rows, rank, width) // GROUPS


def _replacement(rows: int, width: int, rank: int) -> int:
    """down and up of every token, pool of their mean."""
    return 2 * linear(rows, width, rank) + linear(1, width, rank)


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
