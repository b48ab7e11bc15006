"""Rewrite a bundle's standard graphs for TensorRT. The result is ONNX and runs anywhere; TensorRT is not needed here.

1. The cache's length is fixed: an update in place needs a static one.
2. Attention's lengths become a mask: the parser silently drops them.
3. Attention's scale moves to the queries: the parser would multiply the whole cache by its root.
4. Attentions whose scores are bounded (softcap) are decomposed: the parser refuses them.
5. Weights of 64 KB and more become inputs ("bound"): all engines share one device copy, and the builder never sees them. With
   "embedded" they stay in the store, and the builder copies them into each engine.
"""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from ...bundle.store import Store
from ...core.graph_spec import GraphSpec
from ...core.precision import DTYPES
from ...export.lowerings.expand_softcaps import ExpandSoftcaps
from ...export.lowerings.fold_constants import FoldConstants
from ...export.lowerings.lengths_to_mask import LengthsToMask
from ...export.lowerings.lift_weights import LiftWeights
from ...export.lowerings.pin_dims import PinDims
from ...export.lowerings.scale_queries import ScaleQueries

MIN_BOUND_BYTES = 1 << 16
STATIC = ("T",)
PASSES = (
    LengthsToMask,
    ScaleQueries,
    ExpandSoftcaps,
    FoldConstants,
    common.RemoveUnusedNodesPass,
    lambda: common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
)


def engine_spec(spec: GraphSpec) -> GraphSpec:
    """The graph's spec with the sizes that engines fix."""
    return spec.pin({name: spec.dims[name].max for name in STATIC if name in spec.dims})


def rewrite(path: Path, spec: GraphSpec, store: Store, weights: str) -> ir.Model:
    """A bundle's graph file, rewritten for TensorRT.

    spec, store  the graph's spec and store in the bundle
    weights      "bound": inputs after the spec's, by their names in the store; "embedded": they stay in the store
    """
    sizes = {name: spec.dims[name].max for name in STATIC if name in spec.dims}

    def read(name: str) -> ir.TensorProtocol:
        entry = store.entries[name]
        return ir.Tensor(store.array(name), ir.DataType(DTYPES[entry.dtype].onnx), name=name)

    lift = [LiftWeights(MIN_BOUND_BYTES, read)] if weights == "bound" else []
    model = ir.load(path)
    for rewriting in (PinDims(sizes), *(make() for make in PASSES), *lift):
        model = rewriting(model).model
    return model
