"""The keys of checkpoints in LaVIN's layout, and the systems that these keys tell apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...checkpoint.eas_adapter import adapter_keys
from ...checkpoint.keys import Key, KeyTable
from ...checkpoint.lazy_tensor import LazyTensor
from ...core.configs.adapter import Router
from ...core.configs.decoder import Site

Tensors = Mapping[str, LazyTensor]
LAYER = "layers.{i}"


def layer_keys(inner: str) -> KeyTable:
    """A decoder's adapters: before the attentions of the layers in the group "kept", and in place of what the layers in "skipped" lose.
    inner: of the latter, see adapter_keys"""
    return {
        **adapter_keys("layers.{kept}.adapter_attn", "layers.{i}.kept_adapter", "dim", "kept", "A"),
        **adapter_keys("layers.{skipped}.replaced_adapter", "layers.{i}.skipped_adapter", "dim", "skipped", inner),
        **PROJECTOR_KEYS,
        "adapter_modality_embedding.weight": Key("modality.weight", (2, "dim")),
        "backbone.visual.*": None,  # read with VISION_ADAPTER_KEYS
    }


PROJECTOR_KEYS: KeyTable = {
    "adapter_proj.conv_A.weight": Key("vision.project1.weight", ("projector", "width")),
    "adapter_proj.conv_A.bias": Key("vision.project1.bias", ("projector",)),
    "adapter_proj.conv_B.weight": Key("vision.project2.weight", ("dim", "projector")),
    "adapter_proj.conv_B.bias": Key("vision.project2.bias", ("dim",)),
}
_BLOCK = "backbone.visual.transformer.resblocks"
VISION_ADAPTER_KEYS: KeyTable = {
    **adapter_keys(f"{_BLOCK}.{{i}}.adapter_attn", "vision.blocks.{i}.adapter", "width", "visual", "A"),
    f"{_BLOCK}.*.adapter_mlp.*": None,  # type 'normal' trains them and never calls them
    "layers.*": None,  # read with layer_keys
    "adapter_*": None,
}


@dataclass(frozen=True)
class System:
    """A system whose checkpoints have LaVIN's layout.

    name      as it is published
    known_by  what its checkpoints have, in words; has: tests it
    inner     of the adapters in place of what is skipped (layer_keys)
    site      what a skip leaves out
    router    of the decoder's adapters; of_tower: of the tower's
    """

    name: str
    known_by: str
    has: Callable[[Tensors], bool]
    inner: str
    site: Site
    router: Router
    of_tower: Router


def _has(*parts: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(all(part in key for part in parts) for key in tensors)


SYSTEMS = (  # the first that fits
    System(
        "LaVIN-EAS", "replaced_adapter.conv_C", _has("replaced_adapter.conv_C"), "AC", "attention", "prompt", "prompt"
    ),
    System("LaVIN-DAS", "replaced_adapter without conv_C", _has("replaced_adapter"), "A", "layer", "modality", "token"),
    System(
        "LaVIN",
        "adapter_attn without replaced_adapter",
        _has("layers.", "adapter_attn"),
        "A",
        "layer",
        "modality",
        "token",
    ),
)
EVERY = {  # all that a file of any system may have
    key.replace("{kept}", "{i}").replace("{skipped}", "{i}"): row for key, row in layer_keys("AC").items()
}
ADAPTER_KEYS: KeyTable = EVERY | VISION_ADAPTER_KEYS
