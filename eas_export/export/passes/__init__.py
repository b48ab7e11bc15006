"""Rewrites of a traced graph, one per file, in the order they run. None of them reads a weight."""

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

PASSES = (
    FoldConstants,  # shape arithmetic becomes constants
    StaticShapes,
    common.IdentityEliminationPass,
    common.CommonSubexpressionEliminationPass,  # every block computes the same shapes and masks
    common.RemoveUnusedNodesPass,
    LIFT,
    common.RemoveUnusedOpsetsPass,
    common.ClearMetadataAndDocStringPass,  # stack traces with the paths of the machine that traced
)

_SIMPLIFY = (lambda: FoldConstants(infer=True), ShareShapes, DropNoOps)

# Opset -> what writes the clean graph down in it, for consumers that do not know newer operators
LOWERINGS = {
    24: (),
    21: (
        LengthsToMask,
        ScaleQueries,  # else the whole cache would be multiplied in each step
        WideSoftmax,
        ScatterPlaces,
        lambda: ExpandFunctions(21),
        *_SIMPLIFY,
        *_SIMPLIFY,  # a Reshape whose sizes were found out is what others depend on
        StaticShapes,
        common.IdentityEliminationPass,
        LIFT,
        ShareConstants,
        common.CommonSubexpressionEliminationPass,
        common.RemoveUnusedNodesPass,
        lambda: SetOpset(21),
    ),
}


def clean(model: ir.Model) -> ir.Model:
    """The model after every pass."""
    return _run(PASSES, model)


def lower(model: ir.Model, opset: int) -> ir.Model:
    """A clean model, in that opset."""
    return _run(LOWERINGS[opset], model)


def _run(passes: tuple, model: ir.Model) -> ir.Model:
    for make in passes:
        model = make()(model).model
    return model
