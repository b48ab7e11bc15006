"""Rules that write torch functions as ONNX nodes, one for every function that our networks call."""

from . import arithmetic, fused, layers, reshaping, selecting
from .table import RULES

__all__ = ["RULES", "arithmetic", "fused", "layers", "reshaping", "selecting"]
