"""A decoder's parameters, caches and memory per request, and the reference's memory."""

from collections.abc import Mapping
from math import prod

from ...core.configs.decoder import ModelConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ...core.precision import Precision
from .. import network_part
from ..contract import Costs
from ..graphs import fold_modes, graphs_of
from ..memory import RequestMemory, nbytes
from .constant_routers import settled_config
from .specs import cache_specs, fold_state_specs


def costs(config: ModelConfig, plan: SkipPlan) -> Costs:
    adapters = ("_adapter.", ".adapter.", ".router.", ".inner.", ".change.")  # in a checkpoint, and in a network
    marks = {
        "vision": ("vision.",),
        "attention": (".attention.",),
        "feed-forward": (".ffn.",),
        "adapters": adapters,
        "other": ("",),
    }
    trained = {"attention": config.layers * 2 * config.dim * (config.q_dim + config.kv_dim)}  # q and o, k and v
    layer = 2 * config.kv_dim  # keys and values
    return Costs(marks, trained, "", (layer * config.layers, layer * len(plan.kept)), (0, 0))


def requests(config: ModelConfig, plan: SkipPlan, precision: Precision) -> dict[str, RequestMemory]:
    result, modes = {}, network_part(config, "fold_modes")
    for mode in fold_modes(config):
        network = settled_config(config, modes[mode])
        graphs, state = graphs_of(network, mode), fold_state_specs(network, plan, 1)
        folded = graphs["fold"].spec(network, plan, precision, Limits()).outputs if "fold" in graphs else ()
        result[mode] = RequestMemory(
            kv_bytes_per_token=nbytes(cache_specs(network, plan, precision, 1, "past_key_values")),
            fold_state_numbers=sum(prod(tensor.shape) for tensor in state),
            fold_state_bytes=nbytes(state),
            folded_weights_bytes=nbytes(folded),
        )
    return result


def reference_bytes(config: ModelConfig, blocks: Mapping[str, int], longest: int) -> int:
    """One block in float32 beside embeddings and head, or the vision tower, and one block widened; scores of one layer, and the output of
    every block of the reference on a prompt with an image."""
    decoder = max(count for block, count in blocks.items() if block.startswith("layers."))
    tower = sum(count for block, count in blocks.items() if block.startswith("vision"))
    weights = max(4 * (blocks.get("", 0) + 3 * decoder), 6 * tower)  # with copies made while reading
    probe = config.image_tokens + 12  # tokens
    return weights + 8 * config.heads * max(longest, probe) ** 2 + 4 * config.layers * probe * config.dim


def pass_tokens(config: ModelConfig) -> int:
    """Tokens of an image, which lengthen a pass."""
    return config.image_tokens
