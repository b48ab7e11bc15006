"""A cross-encoder's parameters and operations, and the reference's memory."""

from collections.abc import Mapping

from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.plan import SkipPlan
from ...core.precision import Precision
from ..contract import Costs
from ..memory import RequestMemory
from .flops import flops


def costs(config: CrossEncoderConfig, plan: SkipPlan) -> Costs:
    before = config.before_adapter
    folded = "adapters that fold" if before and before.is_linear else ""
    marks = {
        "text encoder": "text.",
        "image encoder": "vision.",
        f"adapters of skipped {config.site}s": ".skipped_" if config.skipped_adapter else None,
        "adapters beside attention and feed-forward": ".adapters."
        if config.beside_adapter or config.behind_adapter
        else None,
        folded or "adapters before attention and feed-forward": "_adapter." if before else None,
        "attention": "attention.",
        "feed-forward": ".ffn.",
    }
    marks = {part: (mark,) for part, mark in marks.items() if mark}
    counts = (flops(config, (), adapters=True), flops(config, plan.skipped, adapters=False))
    return Costs(marks | {"other": ("",)}, {}, folded, (0, 0), tuple(sum(parts.values()) for parts in counts))


def requests(config: CrossEncoderConfig, plan: SkipPlan, precision: Precision) -> dict[str, RequestMemory]:
    """Empty: nothing is kept between passes."""
    return {}


def reference_bytes(config: CrossEncoderConfig, blocks: Mapping[str, int], longest: int) -> int:
    """Two networks in float32: the reference, and the network that is compared with it."""
    return 2 * 4 * sum(blocks.values())


def pass_tokens(config: CrossEncoderConfig) -> int:
    """0: every pass has the same length."""
    return 0
