"""Count what skipping saves, from tensors' shapes and the config; nothing is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..accounts import Account, Accounts
from ..any_config import AnyConfig
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.lazy import LazyTensor
from ..config import ModelConfig
from ..cross_encoder_config import CrossEncoderConfig
from ..plan import SkipPlan
from ..precision import DTYPES
from .flops import flops
from .prune import prune


@dataclass(frozen=True)
class Costs:
    """What a kind of network costs.

    parts   part -> what marks a tensor's name as belonging to it; the first that fits counts
    trained  part -> its numbers when the model was trained, where fine-tuning may have removed some
    folded  part whose tensors are in others after the build, empty for none
    kv      numbers of one row's caches per token, before and after
    flops   of one pass over one row, before and after; 0 where a pass has no fixed size
    """

    parts: Mapping[str, str]
    trained: Mapping[str, int]
    folded: str
    kv: tuple[int, int]
    flops: tuple[int, int]


def account(checkpoint: Checkpoint, plan: SkipPlan, dtype: str) -> Accounts:
    """Before and after pruning by this plan and folding what folds without a prompt, every parameter and the caches counted in `dtype`."""
    costs = COSTS[checkpoint.config.kind](checkpoint.config, plan)
    before, after = (_parameters(each.tensors, costs.parts) for each in (checkpoint, prune(checkpoint, plan)))
    before |= {part: max(number, before[part]) for part, number in costs.trained.items()}
    after |= {costs.folded: 0} if costs.folded else {}
    return Accounts(before=_account(before, costs, 0, dtype), after=_account(after, costs, 1, dtype))


def _decoder(config: ModelConfig, plan: SkipPlan) -> Costs:
    marks = {"vision": "vision.", "attention": ".attention.", "feed-forward": ".ffn.", "adapters": "_adapter."}
    trained = {"attention": config.layers * 2 * config.dim * (config.dim + config.kv_dim)}  # q and o, k and v
    layer = 2 * config.kv_dim  # keys and values
    return Costs(marks | {"other": ""}, trained, "", (layer * config.layers, layer * len(plan.kept)), (0, 0))


def _cross_encoder(config: CrossEncoderConfig, plan: SkipPlan) -> Costs:
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


# Kind of network (a config's) -> (config, plan) -> its costs
COSTS: Mapping[str, Callable[[AnyConfig, SkipPlan], Costs]] = {
    "decoder": _decoder,
    "cross-encoder": _cross_encoder,
}


def _parameters(tensors: Mapping[str, LazyTensor], parts: Mapping[str, str]) -> dict[str, int]:
    counts = dict.fromkeys(parts, 0)
    for name, tensor in tensors.items():
        counts[next(part for part, mark in parts.items() if mark in name)] += tensor.numel
    return counts


def _account(parameters: dict[str, int], costs: Costs, when: int, dtype: str) -> Account:
    total, size = sum(parameters.values()), DTYPES[dtype].size
    return Account(
        parameters=parameters,
        total_parameters=total,
        total_bytes=total * size,
        kv_bytes_per_token=costs.kv[when] * size,
        flops=costs.flops[when],
    )
