"""SAME? A bundle against the PyTorch reference, stage by stage."""

from .verify import verify

__all__ = ["verify"]
