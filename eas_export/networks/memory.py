"""What graphs need of memory, in bytes, from their specs and the parameters' shapes: a request's part, and a GPU's."""

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


def request_memory(config: AnyConfig, plan: SkipPlan, precision: Precision) -> dict[str, RequestMemory]:
    """Fold mode -> what a request needs in it; nothing where nothing is kept from pass to pass."""
    return network_part(config, "requests")(config, plan, precision)


class DeviceMemory(Record):
    """What engines take of a GPU's memory, beside what a step computes with.

    bound     weights once, whatever the number of engines that read them
    embedded  weights in every engine that reads them; largest: in the one that has most
    requests  caches for as many rows and tokens as the limits allow, and a request's folded weights
    """

    bound: int
    embedded: int
    largest: int
    requests: int


def device_memory(
    config: AnyConfig, plan: SkipPlan, precision: Precision, limits: Limits, fold: str, parameters: Mapping[str, int]
) -> DeviceMemory:
    """parameters: name in the store -> bytes"""
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
    return sum(prod(tensor.sizes({"T": 1})) * DTYPES[tensor.dtype].size for tensor in tensors)
