"""Naive transcriptions of the published methods, used only to cross-check the product."""
