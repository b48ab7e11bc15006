"""The demo's data: a small LaVIN-EAS checkpoint in the published format (random weights, from benchmarks/synthetic.py)."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
RECIPE = Path(__file__).parent / "demo.yaml"
