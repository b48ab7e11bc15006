"""The bytes and operations of one run of a graph, from shapes, and the least time that this machine needs for them.

FLOPs  Every product of [n, k] with [k, m] is 2 n k m; norms, activations, softmax and sums are not counted, as in networks/cross_encoder/flops.py. The
       graphs' products are counted as they are built: an adapter is 2 (rank + 1) wide. Each token of a prompt attends to those before it
       and to itself, S (S + 1) / 2 pairs; LaVIN's modality token attends to itself alone, which takes no product. The head is applied to
       the last token of each row. Every prompt of a batch is S tokens long.
Bytes  Each weight that the graph reads, once, whole and in the dtype in which it is stored (of an adapter's down the fold needs one half
       only); of the tables of embeddings and of RoPE a row per token, and no more than the table, unless a tied head reads it whole. Inputs
       and outputs, and folded weights are both: the fold's outputs and the decode's inputs. Of the caches, the S slots that the prefill writes; the T slots in use that a
       step attends to and the one that it writes. What is passed from layer to layer is not counted: it fits a processor's caches.

A graph whose bytes stay in a processor's caches from run to run may take less time than the limit.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Literal

from ..bundle.bundle import Bundle
from ..bundle.store import Entry
from ..core.configs import AnyConfig
from ..core.configs.adapter import AdapterConfig
from ..core.configs.cross_encoder import CrossEncoderConfig
from ..core.configs.decoder import ModelConfig
from ..core.graph_spec import GraphSpec, TensorSpec
from ..core.plan import SkipPlan
from ..core.precision import DTYPES, PRECISIONS
from ..core.record import Record
from ..networks import network_part
from ..networks.cross_encoder.flops import flops, linear, vit
from ..networks.graphs import graphs_of
from ..networks.network import build_network, parameter_shapes

Sizes = Mapping[str, int]  # of every dim that a graph's spec names
# Graph -> (config, plan, spec, sizes) -> floating-point operations of one run
Flops = Mapping[str, Callable[[AnyConfig, SkipPlan, GraphSpec, Sizes], int]]

IDS = ("input_ids", "text_ids")  # the inputs that are looked up in tables
CACHE_SLOTS: Mapping[str, Callable[[Sizes], int]] = {  # graph -> slots of a row's caches that a run reads or writes
    "prefill": lambda sizes: sizes["S"],
    "decode": lambda sizes: sizes["T"] + 1,
}


class Work(Record):
    """One run of a graph: bytes to move, floating-point operations to compute."""

    bytes: int
    flops: int


class Limit(Record):
    """The roofline over a graph: the least seconds of a run, and which of the two bounds it."""

    seconds: float
    bound: Literal["memory", "arithmetic"]


def limit_of(work: Work, bytes_per_second: float, flops_per_second: float) -> Limit:
    """The least time of the work at these rates. Moving and computing overlap, so the slower one decides."""
    memory, arithmetic = work.bytes / bytes_per_second, work.flops / flops_per_second
    return Limit(seconds=max(memory, arithmetic), bound="memory" if memory >= arithmetic else "arithmetic")


def work_of(bundle: Bundle, graph: str, sizes: Sizes) -> Work:
    """The bytes and operations of one run of the bundle's graph.

    sizes  of every dim that the graph's spec names: B rows, S tokens of each prompt, T cache slots in use (in a step, with the new token's),
           N images, M vectors of image features; of METER's retrieval M texts, N images, B pairs. Others are ignored. Raises KeyError
           where one is missing
    """
    m = bundle.manifest
    spec = m.graphs[graph]
    return Work(
        bytes=_bytes(bundle, spec, sizes),
        flops=network_part(m.config, "bench").flops[graph](m.config, m.plan, spec, sizes),
    )


def _bytes(bundle: Bundle, spec: GraphSpec, sizes: Sizes) -> int:
    own = {*spec.aliases, *spec.aliases.values()}
    others = [tensor for tensor in (*spec.inputs, *spec.outputs) if tensor.name not in own]
    caches = [tensor for tensor in spec.outputs if tensor.name in own]
    slots = {"T": CACHE_SLOTS[spec.name](sizes)} if caches else {}
    tokens = sum(prod(tensor.sizes(sizes)) for tensor in spec.inputs if tensor.name in IDS)
    weights = sum(
        _table_bytes(entry, tokens) if entry.name in bundle.manifest.config.tables else entry.nbytes
        for entry in _weights(bundle, spec.name)
    )
    return weights + sum(_nbytes(t, sizes) for t in others) + sum(_nbytes(t, {**sizes, **slots}) for t in caches)


def _weights(bundle: Bundle, graph: str) -> list[Entry]:
    """The tensors in the store that the graph reads; a store that is shared holds others too."""
    m = bundle.manifest
    network = build_network(m.config, m.plan, PRECISIONS[m.precision], m.limits)
    reads = graphs_of(m.config, m.fold)[graph].reads
    return [bundle.store.entries[name] for name in parameter_shapes(network) if reads(m.plan, name)]


def _table_bytes(table: Entry, tokens: int) -> int:
    return table.nbytes // table.shape[0] * min(tokens, table.shape[0])


def _nbytes(tensor: TensorSpec, sizes: Sizes) -> int:
    return prod(tensor.sizes(sizes)) * DTYPES[tensor.dtype].size


def _vision(config: ModelConfig, plan: SkipPlan, spec: GraphSpec, sizes: Sizes) -> int:
    vision = config.vision
    width, projected, tokens = vision.width, vision.projector_width, vision.patches + 1
    adapters = 0
    if vision.adapter:
        routed = {"prompt": 1, "token": tokens}[vision.adapter.router]
        adapters = _adapter(tokens, width, vision.adapter) + linear(routed, width, 2)
    projector = linear(vision.tokens, width, projected) + linear(vision.tokens, projected, config.dim)
    return sizes["N"] * (vit(vision) + vision.blocks * adapters + projector)


def _prefill(config: ModelConfig, plan: SkipPlan, spec: GraphSpec, sizes: Sizes) -> int:
    rows, length, dim = sizes["B"], sizes["S"], config.dim
    pairs, beside = rows * length * (length + 1) // 2, config.router not in (None, "folded")
    blocks = _blocks(config, plan, rows * (config.prefix + length), pairs, beside)
    state = 0  # of the prompt: pooled features and router weights
    if config.router == "prompt":
        state = len(plan.skipped) * linear(rows, dim, config.skipped_adapter.rank) + config.layers * linear(
            rows, dim, 2
        )
    return blocks + state + linear(rows, dim, config.vocab_size)


def _decode(config: ModelConfig, plan: SkipPlan, spec: GraphSpec, sizes: Sizes) -> int:
    inputs = {tensor.name: tensor for tensor in spec.inputs}
    rows, _ = inputs["input_ids"].sizes(sizes)  # one, where weights are folded for one prompt
    pairs = rows * sizes["T"] if plan.kept else 0
    return _blocks(config, plan, rows, pairs, "router" in inputs) + linear(rows, config.dim, config.vocab_size)


def _blocks(config: ModelConfig, plan: SkipPlan, tokens: int, pairs: int, beside: bool) -> int:
    """All blocks. pairs: of a token and one that it attends to; beside: whether adapters stand beside the weights"""
    dim = config.dim
    projections = 2 * linear(tokens, dim, dim) + 2 * linear(tokens, dim, config.kv_dim)  # q and o, k and v
    attention = projections + 2 * linear(pairs, dim, 1)  # scores and their product with v, of all heads
    kept, skipped = (
        _adapter(tokens, dim, adapter) if beside and adapter else 0
        for adapter in (config.kept_adapter, config.skipped_adapter)
    )
    ffn = 3 * linear(tokens, dim, config.ffn_dim)
    if config.site == "attention":
        skipped += ffn
    elif not beside:  # folded, a skipped layer is two products
        skipped = 2 * linear(tokens, dim, config.skipped_adapter.rank)
    return len(plan.kept) * (kept + attention + ffn) + len(plan.skipped) * skipped


def _adapter(tokens: int, width: int, adapter: AdapterConfig) -> int:
    """down and up."""
    return 2 * linear(tokens, width, 2 * (adapter.rank + 1))


def _fold(config: ModelConfig, plan: SkipPlan, spec: GraphSpec, sizes: Sizes) -> int:
    def into(out: int, adapter: AdapterConfig) -> int:
        """W U, and its product with M1 and m1 (networks/fold.py)."""
        inner = adapter.rank + 1
        return linear(out, config.dim, inner) + linear(out, inner, config.dim) + linear(out, inner, 1)

    kept = into(config.dim + 2 * config.kv_dim, config.kept_adapter)  # q, k and v
    return len(plan.kept) * kept + len(plan.skipped) * into(2 * config.ffn_dim, config.skipped_adapter)  # gate and up


def _encode(config: CrossEncoderConfig, plan: SkipPlan, spec: GraphSpec, sizes: Sizes) -> int:
    """Texts and images that several pairs have in common are encoded once."""
    times = {"text encoder": "M", "image encoder": "N"}
    parts = flops(config, plan.skipped, adapters=False).items()
    return sum(count * sizes[dim if (dim := times.get(part)) in spec.dims else "B"] for part, count in parts)


DECODER_FLOPS: Flops = {"vision": _vision, "prefill": _prefill, "fold": _fold, "decode": _decode}
CROSS_ENCODER_FLOPS: Flops = {"encode": _encode}
