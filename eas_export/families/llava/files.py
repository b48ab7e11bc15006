"""LLaVA-1.5 as its training code writes it, with EAS adapters: the keys of its config.json and the names of its tensors."""

import reprlib
from typing import Any, ClassVar, Literal, get_args

from pydantic import model_validator

from ...checkpoint.architectures import ARCHITECTURES
from ...checkpoint.eas_adapter import adapter_keys
from ...checkpoint.hf_keys import UNTIED_HEAD, text_keys
from ...checkpoint.hf_text import TextConfig
from ...checkpoint.hugging_face import Flag
from ...checkpoint.keys import Key, KeyTable

ModelType = Literal["llava_llama", "llava"]  # now, and in the first releases
MODEL_TYPES = get_args(ModelType)
OWN_TOWER = "model.vision_tower.vision_tower."  # a CLIPVisionModel inside the checkpoint

# Beside the language model's, layer groups by their contents: the adapter before an attention ("kept"), the adapter in its place ("skipped")
OWN_KEYS: KeyTable = {
    **adapter_keys(
        "model.layers.{kept}.adapter_attn", "layers.{i}.kept_adapter", "dim", "kept", "A", router_bias=False
    ),
    **adapter_keys("model.layers.{skipped}.replaced_adapter", "layers.{i}.skipped_adapter", "dim", "skipped", "AC"),
    "model.mm_projector.0.weight": Key("vision.project1.weight", ("dim", "width")),
    "model.mm_projector.0.bias": Key("vision.project1.bias", ("dim",)),
    "model.mm_projector.2.weight": Key("vision.project2.weight", ("dim", "dim")),
    "model.mm_projector.2.bias": Key("vision.project2.bias", ("dim",)),
    f"{OWN_TOWER}*": None,  # read with another table, or from the tower's folder
}


def layer_keys(attention_bias: bool = False, mlp_bias: bool = False) -> KeyTable:
    """The key table of a whole model but for its head; "attention" is the group of layers that have one."""
    return {**text_keys(ARCHITECTURES["llama"], attention_bias, mlp_bias, "attention"), **OWN_KEYS}


EVERY_KEY: KeyTable = {**layer_keys(attention_bias=True, mlp_bias=True), **UNTIED_HEAD}


class LlavaConfig(TextConfig):
    """config.json; the defaults are those of LLaVA's code, and of transformers' LLaMA."""

    read_as: ClassVar = "llama"

    model_type: ModelType
    mm_vision_tower: str | None = None
    mm_projector_type: str = "linear"
    mm_vision_select_layer: int
    mm_vision_select_feature: str = "patch"
    mm_use_im_start_end: Flag = False
    unfreeze_mm_vision_tower: Flag = False
    image_aspect_ratio: str | None = None
    mm_resampler_type: str | None = None
    s2: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _is_llavas_own(cls, values: Any) -> Any:
        if isinstance(values, dict) and "text_config" in values:
            raise ValueError("config.json has a text_config: transformers' LLaVA layout, which EAS does not use")
        return values

    @model_validator(mode="after")
    def _is_supported(self) -> "LlavaConfig":
        supported = {
            "mm_projector_type": ("mlp2x_gelu",),
            "mm_vision_select_feature": ("patch",),
            "mm_use_im_start_end": (False,),
            "image_aspect_ratio": ("pad", "square", None),
            "mm_resampler_type": (
                None,
            ),  # between tower and projector, in later versions of LLaVA; some have no tensors
            "s2": (False,),  # the tower on several sizes of an image
        }
        for key, values in supported.items():
            if getattr(self, key) not in values:
                known = " or ".join("none" if value is None else str(value) for value in values)
                raise ValueError(f"{key} is {reprlib.repr(getattr(self, key))}: only {known} is supported")
        return self

    @property
    def square(self) -> Literal["pad", "crop"]:
        """How images are made square (core/configs/vit.ImageConfig)."""
        return "pad" if self.image_aspect_ratio == "pad" else "crop"

    def tower_blocks(self, layers: int) -> int | None:
        """How many of a tower's `layers` blocks are run: features are hidden_states[select_layer], and [0] is before the first block.
        None where select_layer is out of range."""
        blocks = self.mm_vision_select_layer
        blocks = blocks if blocks >= 0 else layers + 1 + blocks
        return blocks if 1 <= blocks <= layers else None
