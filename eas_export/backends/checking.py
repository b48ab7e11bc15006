"""Check how an engine builder parses a bundle's graphs: is every attention fused, and every cache updated in place?"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx

from ..bundle.bundle import Bundle, open_bundle
from ..core.errors import UserError
from ..core.progress import Progress
from ..core.record import Record
from . import backends_that_run, get_backend
from .contract import Layer

FIRST_WITH_CACHES = 24  # the opset that brought TensorScatter and Attention's lengths
ATTENTION, CACHE = "ATTENTION_INPUT", "KV_CACHE_UPDATE"  # layers' kinds


class GraphCheck(Record):
    """One graph as parsed by a builder.

    layers      all layers, in order
    opset       of the graph
    attentions  in the graph, as operators or decomposed (opset 21); fused: those that are one layer; masked: those with a mask for the slots to read
    cached      Attention operators that read a cache and so need a mask
    caches      caches that the graph updates; in_place: those that a layer updates in place
    """

    layers: tuple[Layer, ...]
    opset: int
    attentions: int
    fused: int
    masked: int
    cached: int
    caches: int
    in_place: int

    @property
    def kinds(self) -> dict[str, int]:
        return dict(Counter(layer.kind for layer in self.layers).most_common())

    @property
    def lost(self) -> str:
        """What the parser lost, empty if nothing."""
        if self.opset < FIRST_WITH_CACHES and self.attentions:
            return f"opset {self.opset}: attention is decomposed"
        if self.fused < self.attentions:
            return f"{self.attentions - self.fused} of {self.attentions} attentions are decomposed"
        if self.in_place < self.caches:
            return f"{self.caches - self.in_place} of {self.caches} caches are copied"
        if self.masked < self.cached:
            return f"{self.cached - self.masked} of {self.cached} attentions read all of their cache"
        return ""


def check(
    bundle: Bundle | Path | str, backend: str = "tensorrt-rtx", progress: Progress | None = None
) -> dict[str, GraphCheck]:
    """Parse every graph of the bundle with the backend. Raises UserError for a backend that builds no engines, is not installed, or
    rejects a graph."""
    compiler = get_backend(backend).compiler
    if compiler is None:
        fix = f"pass --backend {' or '.join(backends_that_run('engines'))}"
        raise UserError(f"backend {backend} builds no engines to check", where="--backend", fix=fix)
    bundle, progress = open_bundle(bundle), progress or Progress()
    checks = {}
    for name, spec in bundle.manifest.graphs.items():
        path = bundle.graph_file(name)
        with progress.stage(f"parsing {name}"):
            layers = compiler.layers(path, spec, bundle.store)
        kinds = Counter(layer.kind for layer in layers)
        nodes = onnx.load(path, load_external_data=False).graph.node
        attentions = [node for node in nodes if node.op_type == "Attention"]
        checks[name] = GraphCheck(
            layers=tuple(layers),
            opset=bundle.manifest.options.opset,
            attentions=len(attentions) + _decomposed(nodes),
            fused=kinds[ATTENTION],
            masked=sum(bool(layer.mask) for layer in layers),
            cached=sum(node.input[1] in spec.aliases for node in attentions),
            caches=sum(node.op_type == "TensorScatter" for node in nodes),
            in_place=kinds[CACHE],
        )
    return checks


def _decomposed(nodes: Iterable[onnx.NodeProto]) -> int:
    """Attentions without an operator of their own: softmaxes that weight rows in a matrix product."""
    after = {name: n for n in nodes if n.op_type in ("Cast", "Where", "MatMul") for name in n.input}
    count = 0
    for node in (node for node in nodes if node.op_type == "Softmax"):
        while node is not None and node.op_type != "MatMul":
            node = after.get(node.output[0])
        count += node is not None
    return count
