"""Memory that graphs need, in bytes, from their specs and the parameters' shapes: per request, and on a GPU."""

from collections.abc import Mapping
from math import prod

from ..core.configs import AnyConfig
from ..core.graph_spec import TensorSpec
from ..core.limits import Limits
from ..core.plan import SkipPlan
from ..core.precision import DTYPES, Precision
from ..core.record import Record
from . import network_part
from .graphs import graphs_of


class RequestMemory(Record):
    """Memory of one row of a batch.

    kv_bytes_per_token    KV caches of the kept layers
    fold_state_numbers    float32 numbers of the fold state: two router weights per layer, a pooled feature per skipped layer
    fold_state_bytes      the same in bytes
    folded_weights_bytes  the prompt's own weights, which decode reads in place of shared ones
    """

    kv_bytes_per_token: int
    fold_state_numbers: int
    fold_state_bytes: int
    folded_weights_bytes: int


def request_memory(config: AnyConfig, plan: SkipPlan, precision: Precision) -> dict[str, RequestMemory]:
    """Fold mode -> memory of a request; empty for a network that keeps nothing between passes."""
    return network_part(config, "requests")(config, plan, precision)


class DeviceMemory(Record):
    """GPU memory of engines, in bytes, without activations.

    bound     weights, which all engines share
    embedded  weights, where each engine has a copy of those that it reads; largest: the copy of the largest engine
    requests  caches for as many rows and tokens as the limits allow, and a request's folded weights
    """

    bound: int
    embedded: int
    largest: int
    requests: int


def device_memory(
    config: AnyConfig, plan: SkipPlan, precision: Precision, limits: Limits, fold: str, parameters: Mapping[str, int]
) -> DeviceMemory:
    """The memory of the engines of one fold mode. parameters: name in the store -> bytes"""
    request = request_memory(config, plan, precision).get(fold)
    of_graphs = [
        sum(nbytes for name, nbytes in parameters.items() if graph.reads(plan, name))
        for graph in graphs_of(config, fold).values()
    ]
    return DeviceMemory(
        bound=sum(parameters.values()),
        embedded=sum(of_graphs),
        largest=max(of_graphs),
        requests=limits.max_batch * limits.max_tokens * request.kv_bytes_per_token + request.folded_weights_bytes
        if request
        else 0,
    )


def nbytes(tensors: tuple[TensorSpec, ...]) -> int:
    """Bytes of these tensors, of caches with one slot."""
    return sum(prod(tensor.sizes({"T": 1})) * DTYPES[tensor.dtype].size for tensor in tensors)
