"""Count what skipping saves, from the tensors' shapes and the config, without reading tensors."""

from collections.abc import Mapping

from ..bundle.manifest import Account, Accounts
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.lazy_tensor import OF_CONFIG, LazyTensor
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import DTYPES
from ..networks import network_part
from ..networks.contract import Costs
from ..networks.prune import prune


def account(checkpoint: Checkpoint, plan: SkipPlan, dtype: str, network: Checkpoint | None = None) -> Accounts:
    """Parameters, bytes, KV cache and operations before and after pruning by the plan and folding what needs no prompt, in `dtype`.

    network  what is exported (networks/parameters.exported): where it has other parameters than the checkpoint, these are counted
    """
    costs = network_part(checkpoint.config, "costs")(checkpoint.config, plan)
    before, after = (_parameters(model.tensors, costs.parts) for model in (checkpoint, prune(checkpoint, plan)))
    before |= {part: max(number, before[part]) for part, number in costs.trained.items()}
    after |= {costs.folded: 0} if costs.folded else {}
    if network and network.config != checkpoint.config:
        made = network_part(network.config, "parameters")(network, plan, Limits()).items()
        after = _parameters({name: t for name, t in made if t.source != OF_CONFIG}, costs.parts)
    return Accounts(before=_account(before, costs, 0, dtype), after=_account(after, costs, 1, dtype))


def _parameters(tensors: Mapping[str, LazyTensor], parts: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    counts = dict.fromkeys(parts, 0)
    for name, tensor in tensors.items():
        counts[next(part for part, marks in parts.items() if any(mark in name for mark in marks))] += tensor.numel
    return counts


def _account(parameters: dict[str, int], costs: "Costs", when: int, dtype: str) -> Account:
    total, size = sum(parameters.values()), DTYPES[dtype].size
    return Account(
        parameters=parameters,
        total_parameters=total,
        total_bytes=total * size,
        kv_bytes_per_token=costs.kv[when] * size,
        flops=costs.flops[when],
    )
