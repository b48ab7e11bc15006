"""SAME? A bundle against the PyTorch reference, step by step (compare.py)."""
