"""What a request needs beside the shared weights, in bytes, from the graphs' specs."""

from math import prod

from ..config import Limits, ModelConfig, Record
from ..graph import TensorSpec
from ..plan import SkipPlan
from ..precision import DTYPES, Precision
from .common import cache_specs, fold_state_specs
from .graphs import FOLD_MODES


class RequestMemory(Record):
    """Of one row.

    kv_bytes_per_token    key and value caches of the kept layers
    fold_state_numbers    float32 numbers that carry the prompt to the adapters: two router weights per layer, a pooled feature per
                          skipped layer
    fold_state_bytes      the same in bytes
    folded_weights_bytes  weights that decode takes instead of shared ones
    """

    kv_bytes_per_token: int
    fold_state_numbers: int
    fold_state_bytes: int
    folded_weights_bytes: int


def request_memory(config: ModelConfig, plan: SkipPlan, precision: Precision) -> dict[str, RequestMemory]:
    """Fold mode -> what a request needs in it."""
    state = fold_state_specs(config, plan, 1)
    caches = cache_specs(config, plan, precision, 1, "past_key_values")
    result = {}
    for mode, graphs in FOLD_MODES.items():
        folded = graphs["fold"].spec(config, plan, precision, Limits()).outputs if "fold" in graphs else ()
        result[mode] = RequestMemory(
            kv_bytes_per_token=_nbytes(caches),
            fold_state_numbers=sum(prod(tensor.shape) for tensor in state),
            fold_state_bytes=_nbytes(state),
            folded_weights_bytes=_nbytes(folded),
        )
    return result


def _nbytes(tensors: tuple[TensorSpec, ...]) -> int:
    return sum(prod(tensor.sizes({"T": 1})) * DTYPES[tensor.dtype].size for tensor in tensors)
