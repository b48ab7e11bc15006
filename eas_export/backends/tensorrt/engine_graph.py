"""A bundle's standard graphs as TensorRT has to be given them. No TensorRT here: what comes out is ONNX, and runs anywhere.

1. The cache's length is written down: an update in place needs a static one.
2. Attention's lengths become a mask: the parser drops them without a word.
3. Attention's scale goes to the queries: the parser would multiply the whole cache by its root.
4. Weights of 64 KB and more become inputs ("bound"): all engines share one device copy, and the builder never sees them. With
   "embedded" they stay where they are, in the store, and the builder copies them into each engine.
"""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from ...bundle.store import Store
from ...core.graph_spec import GraphSpec
from ...core.precision import DTYPES
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
    FoldConstants,
    common.RemoveUnusedNodesPass,
    lambda: common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
)


def engine_spec(spec: GraphSpec) -> GraphSpec:
    """The graph's spec with every size fixed that an engine has fixed."""
    return spec.pin({name: spec.dims[name].max for name in STATIC if name in spec.dims})


def rewrite(path: Path, spec: GraphSpec, store: Store, weights: str) -> ir.Model:
    """The graph in a bundle's file for TensorRT.

    spec, store  the graph's, as the bundle has them
    weights      "bound": inputs behind the spec's, by their names in the store; "embedded": they stay in the store
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
