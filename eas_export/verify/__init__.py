"""SAME? A bundle against the PyTorch reference, step by step."""

from .compare import Request, compare_bundle

__all__ = ["Request", "compare_bundle"]
