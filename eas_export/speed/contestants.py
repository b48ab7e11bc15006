"""Who is measured: what runs what. A contestant is a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..bundle import Manifest
from ..errors import UserError
from .variants import ENGINES


@dataclass(frozen=True)
class Contestant:
    """variant: a row of variants.VARIANTS; runner: a row of runners.RUNNERS; what: both in words"""

    variant: str
    runner: str
    what: str


_FOLDED = "folded into the weights prompt by prompt"
_BESIDE = "beside shared weights, frozen at the prompt's state"

DECODER: Mapping[str, Contestant] = {
    "onnxruntime-weights": Contestant("weights", "onnxruntime", f"ONNX Runtime, adapters {_FOLDED}"),
    "onnxruntime-lowrank": Contestant("lowrank", "onnxruntime", f"ONNX Runtime, adapters {_BESIDE}"),
    "onnxruntime-none": Contestant("none", "onnxruntime", "ONNX Runtime, a model without adapters"),
    "onnxruntime-floor": Contestant("floor", "onnxruntime", "ONNX Runtime, the same graphs with the adapters left out"),
    "onnxruntime-unskipped": Contestant(
        "unskipped", "onnxruntime", f"ONNX Runtime, every attention, adapters {_BESIDE}"
    ),
    "onnxruntime-plain": Contestant(
        "plain", "onnxruntime", "ONNX Runtime, the base model: every attention, no adapters"
    ),
    "onnxruntime-genai": Contestant("genai", "genai", "onnxruntime-genai, the base model from its own builder"),
    "pytorch-unskipped": Contestant("unskipped", "published", "PyTorch eager as published, no attention skipped"),
    "pytorch-published": Contestant(
        "lowrank", "published", "PyTorch eager as published: adapters as convolutions in the loop"
    ),
    "pytorch-weights": Contestant("weights", "pytorch", f"PyTorch eager, adapters {_FOLDED}"),
    "pytorch-lowrank": Contestant("lowrank", "pytorch", f"PyTorch eager, adapters {_BESIDE}"),
    "pytorch-compiled": Contestant("lowrank", "compiled", f"torch.compile, adapters {_BESIDE}"),
    **{
        f"{backend}-{fold}-{weights}": Contestant(
            f"{backend}-{fold}-{weights}",
            backend,
            f"{backend} engines with {weights} weights, adapters {_FOLDED if fold == 'weights' else _BESIDE}",
        )
        for backend in ENGINES
        for fold in ("weights", "lowrank")
        for weights in ("bound", "embedded")
    },
}

CROSS_ENCODER: Mapping[str, Contestant] = {
    "onnxruntime-offline": Contestant("offline", "onnxruntime", "ONNX Runtime, adapters folded once and for all"),
    "onnxruntime-unskipped": Contestant("unskipped", "onnxruntime", "ONNX Runtime, every attention, adapters folded"),
    "pytorch-offline": Contestant("offline", "pytorch", "PyTorch eager, adapters folded once and for all"),
    "pytorch-unskipped": Contestant("unskipped", "pytorch", "PyTorch eager, every attention, adapters folded"),
    "pytorch-compiled": Contestant("offline", "compiled", "torch.compile, adapters folded"),
}

# Kind of network (a config's) -> name -> contestant
CONTESTANTS: Mapping[str, Mapping[str, Contestant]] = {"decoder": DECODER, "cross-encoder": CROSS_ENCODER}


def choose(kind: str, own: str, against: Sequence[str] | None) -> dict[str, Contestant]:
    """The bundle itself first, then the others that were asked for, all without being asked. Raises UserError for an unknown name."""
    known = CONTESTANTS[kind]
    names = list(known) if against is None else list(against)
    for name in names:
        if name not in known:
            raise UserError(f"there is no {name!r}", where="--against", fix=f"choose from {', '.join(known)}")
    return {name: known[name] for name in dict.fromkeys([own, *names])}


def subject(m: Manifest, device: str) -> str:
    """The contestant that is the bundle itself: on a GPU its engines, where it has any."""
    targets = [record.engine.target for record in m.engine_files.values()]
    if device == "cuda" and targets:
        return f"{targets[0].backend}-{m.fold}-{targets[0].weights}"
    return f"onnxruntime-{m.fold}"
