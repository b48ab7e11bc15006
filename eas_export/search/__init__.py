"""SEARCH: find the redundant attentions of a trained model, and train the adapters that replace them."""

from .pipeline import search

__all__ = ["search"]
