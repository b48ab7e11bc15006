"""The process that parses a graph and builds an engine with TensorRT; build.py starts it.

The builder prints, does not release all its memory, and may be killed for it; a separate process keeps that from the caller. It reads one
JSON object from standard input and writes JSON lines to standard output; the last line is the result.

    {"backend": .., "model": path}                                        -> {"layers": [{"name": .., "kind": .., "mask": bool}, ..]}
    {.., "engine": path, "shapes": {..}, "target": {..}}                  -> {"fraction": 0.5} ..., {"attention": "fused"}
                                                                          -> {"refused": [the builder's errors]}
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from ...bundle.manifest import Target
from .flavor import Refused, attentions, build, get_flavor, parse


def main() -> None:
    request = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print write to standard error

    def say(answer: dict[str, Any]) -> bool:
        """Send an answer. Returns whether the caller is still there."""
        try:
            answers.write(json.dumps(answer) + "\n")
        except OSError:
            return False
        return True

    try:
        say(_build(request, say) if "engine" in request else _layers(request))
    except Refused as refusal:
        say({"refused": refusal.errors})
    except MemoryError:
        say({"refused": ["out of memory"]})
    except OSError as error:  # usually a full disk
        say({"refused": [f"{error.strerror}"]})


def _build(request: dict[str, Any], say: Any) -> dict[str, Any]:
    shapes = {name: tuple(sizes) for name, sizes in request["shapes"].items()}
    attention = build(
        get_flavor(request["backend"]),
        Path(request["model"]),
        Path(request["engine"]),
        shapes,
        Target(**request["target"]),
        lambda fraction: say({"fraction": fraction}),
    )
    return {"attention": attention}


def _layers(request: dict[str, Any]) -> dict[str, Any]:
    trt = get_flavor(request["backend"]).load()
    network = parse(trt, Path(request["model"]))
    masked = iter([attention.mask is not None for attention in attentions(trt, network)])
    listed = []
    for layer in network.layers:
        kind = layer.type.name
        listed.append(
            {"name": layer.name, "kind": kind} | ({"mask": next(masked)} if kind == "ATTENTION_INPUT" else {})
        )
    return {"layers": listed}
