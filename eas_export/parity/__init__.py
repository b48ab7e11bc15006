"""SAME? A bundle against the PyTorch reference, stage by stage."""

from .compare import compare_bundle

__all__ = ["compare_bundle"]
