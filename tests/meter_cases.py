"""METER's golden cases: what the published code gave, and the inputs by the encode graph's names."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "meter"
METER_CASES = ("vqa_skip10", "vqa_small_ln", "nlvr2_skip10", "irtr_skip10")


@dataclass(frozen=True)
class MeterCase:
    """One Lightning checkpoint of the published format with what the published code gave on it."""

    name: str

    @property
    def file(self) -> Path:
        return GOLDEN / self.name / "last.ckpt"

    @cached_property
    def meta(self) -> dict:
        return json.loads((GOLDEN / self.name / "meta.json").read_text())

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return dict(np.load(GOLDEN / self.name / "inputs.npz"))

    @cached_property
    def golden(self) -> dict[str, np.ndarray]:
        return dict(np.load(GOLDEN / self.name / "golden.npz"))

    @property
    def skip(self) -> list[int]:
        return self.meta["skip_list"]

    @property
    def text_heads(self) -> int:
        return self.meta["sizes"]["text_heads"]

    def images(self, row: int) -> list[np.ndarray]:
        """The image of a row, or both of NLVR2's; retrieval has one image for all its texts."""
        if "pixels" not in self.inputs:
            return [self.inputs["pixels_0"][row], self.inputs["pixels_1"][row]]
        return [self.inputs["pixels"][row % len(self.inputs["pixels"])]]
