"""Rewrites of a traced graph, one per file, in the order they run. None of them reads a weight."""

import onnx_ir as ir
from onnx_ir.passes import common

from .fold_constants import FoldConstants
from .static_shapes import StaticShapes

PASSES = (
    FoldConstants,  # shape arithmetic becomes constants
    StaticShapes,
    common.IdentityEliminationPass,
    common.CommonSubexpressionEliminationPass,  # every block computes the same shapes and masks
    common.RemoveUnusedNodesPass,
    lambda: common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.RemoveUnusedOpsetsPass,
    common.ClearMetadataAndDocStringPass,  # stack traces with the paths of the machine that traced
)


def clean(model: ir.Model) -> ir.Model:
    """The model after every pass."""
    for make in PASSES:
        model = make()(model).model
    return model
