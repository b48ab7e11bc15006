"""The demo's data, made by `eas-export demo --train`: a small LLaVA that was trained on questions about handwritten digits, the
LLaVA-EAS that a search made of it, and questions that neither was trained on."""

from pathlib import Path

HERE = Path(__file__).parent
BASE = HERE / "base"  # every attention is there
CHECKPOINT = HERE / "checkpoint"
QUESTIONS = HERE / "held_out" / "questions.jsonl"
RECIPE = HERE / "demo.yaml"
