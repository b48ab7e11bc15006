"""The keys of checkpoints in LaVIN's layout, and the systems that these keys tell apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...checkpoint.eas_adapter import adapter_keys
from ...checkpoint.keys import Key, KeyTable
from ...checkpoint.layouts import LORA_PART
from ...checkpoint.lazy_tensor import LazyTensor
from ...core.configs.adapter import Router
from ...core.plan import Site

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


def _pair(published: str, ours: str, outputs: str, inputs: str) -> KeyTable:
    """The rows of a low-rank pair (see lora.merge_pairs), whose published keys have no ".weight"."""
    return {
        f"{published}.lora_A": Key(f"{ours}.lora_A.weight", ("lora", inputs)),
        f"{published}.lora_B": Key(f"{ours}.lora_B.weight", (outputs, "lora")),
    }


LORA_KEYS: KeyTable = {
    **{
        row: key
        for x in "qkvo"
        for row, key in _pair(f"{LAYER}.attention.w{x}", f"{LAYER}.attention.{x}", *("dim",) * 2).items()
    },
    **PROJECTOR_KEYS,
    "adapter_modality_embedding.weight": None,  # no other token attends to it, and no router reads it
    "backbone.visual.*": None,  # read with VISION_LORA_KEYS
}
VISION_LORA_KEYS: KeyTable = {
    **_pair(f"{_BLOCK}.{{i}}.mlp.c_proj", "vision.blocks.{i}.fc2", "width", "4*width"),
    "layers.*": None,  # read with LORA_KEYS
    "adapter_*": None,
}


@dataclass(frozen=True)
class System:
    """A system whose checkpoints have LaVIN's layout.

    name      as it is published
    known_by  what its checkpoints have, in words; has: tests it
    layers    the rows of the decoder and the projector; tower: of the tower
    site      what a skip leaves out
    router    of the decoder's adapters; of_tower: of the tower's; None: it has none
    modality_token  see ModelConfig. Its position is left free where the network does not have it
    """

    name: str
    known_by: str
    has: Callable[[Tensors], bool]
    layers: KeyTable
    tower: KeyTable
    site: Site
    router: Router | None
    of_tower: Router | None
    modality_token: bool = True


def _has(*parts: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(all(part in key for part in parts) for key in tensors)


_EAS, _DAS = layer_keys("AC"), layer_keys("A")
SYSTEMS = (  # the first that fits
    System(
        name="LaVIN-EAS",
        known_by="replaced_adapter.conv_C",
        has=_has("replaced_adapter.conv_C"),
        layers=_EAS,
        tower=VISION_ADAPTER_KEYS,
        site="attention",
        router="prompt",
        of_tower="prompt",
    ),
    System(
        name="LaVIN-DAS",
        known_by="replaced_adapter without conv_C",
        has=_has("replaced_adapter"),
        layers=_DAS,
        tower=VISION_ADAPTER_KEYS,
        site="layer",
        router="modality",
        of_tower="token",
    ),
    System(
        name="LaVIN",
        known_by="adapter_attn without replaced_adapter",
        has=_has("layers.", "adapter_attn"),
        layers=_DAS,
        tower=VISION_ADAPTER_KEYS,
        site="attention",
        router="modality",
        of_tower="token",
    ),
    System(
        name="LaVIN-LoRA",
        known_by="lora_A without adapters",
        has=_has("layers.", LORA_PART),
        layers=LORA_KEYS,
        tower=VISION_LORA_KEYS,
        site="attention",
        router=None,
        of_tower=None,
        modality_token=False,
    ),
)
EVERY = {  # all that a file of any system may have
    key.replace("{kept}", "{i}").replace("{skipped}", "{i}"): row
    for key, row in (LORA_KEYS | VISION_LORA_KEYS | _EAS).items()
}
ADAPTER_KEYS: KeyTable = EVERY | VISION_ADAPTER_KEYS
