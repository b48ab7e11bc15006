"""A cross-encoder's parameters and operations, and the reference's memory."""

from collections.abc import Mapping

from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.plan import SkipPlan
from ...core.precision import Precision
from ..contract import Costs
from ..memory import RequestMemory
from .flops import flops


def costs(config: CrossEncoderConfig, plan: SkipPlan) -> Costs:
    marks = {
        "text encoder": "text.",
        "image encoder": "vision.",
        "adapters of skipped attentions": ".skipped_",
        "adapters that fold": "_adapter.",
        "attention": "attention.",
        "feed-forward": ".ffn.",
    }
    before, after = (flops(config, (), adapters=True), flops(config, plan.skipped, adapters=False))
    return Costs(marks | {"other": ""}, {}, "adapters that fold", (0, 0), (sum(before.values()), sum(after.values())))


def requests(config: CrossEncoderConfig, plan: SkipPlan, precision: Precision) -> dict[str, RequestMemory]:
    """Empty: nothing is kept between passes."""
    return {}


def reference_bytes(config: CrossEncoderConfig, blocks: Mapping[str, int], longest: int) -> int:
    """Two networks in float32: the reference, and the network that is compared with it."""
    return 2 * 4 * sum(blocks.values())


def pass_tokens(config: CrossEncoderConfig) -> int:
    """0: every pass has the same length."""
    return 0
