"""WHICH? Find the attentions that a trained model can do without, and train the adapters that stand in for them."""

from .pipeline import search

__all__ = ["search"]
