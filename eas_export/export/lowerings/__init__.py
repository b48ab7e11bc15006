"""Rewrites of a recorded graph, one per file; LOWERINGS lists those of each opset, in order. They read no weights."""

import onnx_ir as ir
from onnx_ir.passes import common

from .drop_no_ops import DropNoOps
from .expand_functions import ExpandFunctions
from .fold_constants import FoldConstants
from .lengths_to_mask import LengthsToMask
from .scale_queries import ScaleQueries
from .scatter_places import ScatterPlaces
from .set_opset import SetOpset
from .share_constants import ShareConstants
from .share_shapes import ShareShapes
from .static_shapes import StaticShapes
from .wide_softmax import WideSoftmax

LIFT = lambda: common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)

_SIMPLIFY = (lambda: FoldConstants(infer=True), ShareShapes, DropNoOps)

# Opset -> the passes that lower a graph to it, for consumers that do not know newer operators
LOWERINGS = {
    24: (),
    21: (
        LengthsToMask,
        ScaleQueries,  # otherwise each step would multiply the whole cache
        WideSoftmax,
        ScatterPlaces,
        lambda: ExpandFunctions(21),
        *_SIMPLIFY,
        *_SIMPLIFY,  # others depend on a Reshape's sizes, which the first round has inferred
        StaticShapes,
        common.IdentityEliminationPass,
        LIFT,
        ShareConstants,
        common.CommonSubexpressionEliminationPass,
        common.RemoveUnusedNodesPass,
        lambda: SetOpset(21),
    ),
}


def lower(model: ir.Model, opset: int) -> ir.Model:
    """Lower a recorded model to the opset."""
    for make in LOWERINGS[opset]:
        model = make()(model).model
    return model
