"""What every part of benchmarks/gpu.py has: what was asked for, and the file of what was found."""

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from gpu_measure import SIZES, Sizes
from synthetic import SHAPES, Shape

from eas_export.bundle.bundle import Bundle, open_bundle
from eas_export.core.errors import UserError


class OutOfTime(Exception):
    """--minutes are over."""


@dataclass(frozen=True)
class Given:
    work: Path
    shape: str
    precision: str
    device: torch.device
    minutes: float
    sizes: str
    layers: int | None
    modes: tuple[str, ...] | None

    @property
    def model(self) -> Shape:
        """With other layers, as large a share of them is skipped: the last ones."""
        shape = SHAPES[self.shape]
        if self.layers is None:
            return shape
        skipped = round(self.layers * len(shape.skip) / shape.layers)
        return replace(shape, layers=self.layers, skip=tuple(range(self.layers - skipped, self.layers)))

    @property
    def size(self) -> Sizes:
        return SIZES[self.sizes]

    def require_same_as_made(self) -> None:
        """A folder holds one model: what it was made with has to be what is asked for."""
        asked = {name: getattr(self, name) for name in ("shape", "precision", "sizes", "layers")}
        path = self.work / "made.json"
        if not path.exists():
            write_json(path, asked)
        elif (made := json.loads(path.read_text())) != asked:
            raise UserError(f"it was made with {made}, not {asked}", where="--work", fix="give another folder")

    def bundle(self, name: str) -> Bundle:
        return open_bundle(self.work / f"bundle-{name}")

    def reference(self, name: str) -> Path:
        return self.work / f"reference-{'unskipped' if name == 'unskipped' else 'skipped'}.pt"


class Part:
    """What one part found, in its file as soon as it is known. `log` is the order in which it was: [what, seconds since the start]."""

    def __init__(self, name: str, given: Given):
        self.path = given.work / f"{name}.json"
        self.found: dict = {"log": []}
        if given.modes and self.path.exists():
            self.found |= {"modes": json.loads(self.path.read_text()).get("modes", {})}
        self.start, self.minutes = time.monotonic(), given.minutes

    def put(self, *keys: str, value: object) -> None:
        at = self.found
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = value
        self.found["log"].append([" ".join(keys), round(time.monotonic() - self.start, 2)])
        write_json(self.path, self.found)

    def require_time(self) -> None:
        if time.monotonic() - self.start > 60 * self.minutes:
            raise OutOfTime


def write_json(path: Path, content: dict) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.partial")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)
