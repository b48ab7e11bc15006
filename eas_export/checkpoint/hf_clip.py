"""CLIP's vision tower in Hugging Face's form (CLIPVisionModel): a folder of its own, or the keys inside a LLaVA checkpoint.

Blocks after the one whose output is read, and CLIP's text half, are left out. q, k and v become one layer.
"""

import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, StrictBool, model_validator

from ..core.errors import UserError
from ..core.record import quoted, validated
from ..system.files import require_folder
from .hf_files import CONFIG_FILE
from .hugging_face import HfRecord, find_weights, read_folder
from .json_file import read_json
from .keys import Key, KeyTable, rename, require
from .lazy_tensor import LazyTensor, combine, differ
from .state_dict import refuse_by_name

Tensors = dict[str, LazyTensor]

PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = (
    "processor_config.json"  # of a whole CLIP; from transformers 5 on it has the image processor's settings
)
BICUBIC = 3  # Pillow's number
HEAD_WIDTH, WIDEST = 64, 1024  # of OpenAI's CLIP ViTs; laion's have GELU, and the wider ones other heads
PREFIX = "vision_model."  # of every key, unless transformers 5 wrote the file
BLOCK = re.compile(r"(?:vision_model\.)?encoder\.layers\.(\d{1,4})\.")


def clip_keys(prefix: str) -> KeyTable:
    """The rows of a CLIPVisionModel, with q, k and v separate."""
    block = f"{prefix}encoder.layers.{{i}}"
    layers = {
        f"{block}.self_attn.q_proj": ("q", "width", "width"),
        f"{block}.self_attn.k_proj": ("k", "width", "width"),
        f"{block}.self_attn.v_proj": ("v", "width", "width"),
        f"{block}.self_attn.out_proj": ("out", "width", "width"),
        f"{block}.layer_norm1": ("norm1", "width"),
        f"{block}.layer_norm2": ("norm2", "width"),
        f"{block}.mlp.fc1": ("fc1", "mlp", "width"),
        f"{block}.mlp.fc2": ("fc2", "width", "mlp"),
    }
    table: dict[str, Key | None] = {
        f"{prefix}embeddings.class_embedding": Key("vision.class_embedding", ("width",)),
        f"{prefix}embeddings.position_embedding.weight": Key("vision.position_embedding", ("positions", "width")),
        f"{prefix}embeddings.patch_embedding.weight": Key("vision.patch.weight", ("width", 3, "patch", "patch")),
        f"{prefix}pre_layrnorm.weight": Key("vision.norm.weight", ("width",)),  # transformers' own spelling
        f"{prefix}pre_layrnorm.bias": Key("vision.norm.bias", ("width",)),
        f"{prefix}embeddings.position_ids": None,  # 0, 1, 2, ...
        f"{prefix}post_layernorm.*": None,  # the patch tokens are read before it
        "visual_projection.*": None,
        "text_model.*": None,
        "text_projection.*": None,
        "logit_scale": None,
    }
    for published, (ours, *shape) in layers.items():
        table[f"{published}.weight"] = Key(f"vision.blocks.{{i}}.{ours}.weight", tuple(shape))
        table[f"{published}.bias"] = Key(f"vision.blocks.{{i}}.{ours}.bias", (shape[0],))
    return table


TOWER_KEYS = clip_keys(PREFIX) | clip_keys("")  # of either form


class ClipVisionConfig(HfRecord):
    """The vision half of CLIP; defaults are transformers'."""

    model_type: Literal["clip_vision_model", "clip"] = "clip_vision_model"  # other towers have the same keys (SigLIP)
    hidden_size: int = Field(default=768, gt=0, le=1 << 20)
    intermediate_size: int = Field(default=3072, gt=0, le=1 << 24)
    num_hidden_layers: int = Field(default=12, gt=0, le=1000)
    num_attention_heads: int = Field(default=12, gt=0, le=1 << 16)
    num_channels: Literal[3] = 3
    image_size: int = Field(default=224, gt=0, le=1 << 16)
    patch_size: int = Field(default=32, gt=0, le=1 << 16)
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = Field(default=1e-5, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _vision_half(cls, values: Any) -> Any:
        """The config of a whole CLIP has it as vision_config."""
        return values.get("vision_config", values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _divides(self) -> "ClipVisionConfig":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self


Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class Preprocessing(HfRecord):
    """CLIPImageProcessor's settings; defaults are CLIP's."""

    image_mean: tuple[Mean, Mean, Mean] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Deviation, Deviation, Deviation] = (0.26862954, 0.26130258, 0.27577711)
    resample: Literal[3] = BICUBIC
    do_resize: Literal[True] = True
    do_center_crop: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    rescale_factor: float = Field(default=1 / 255, ge=1 / 255.1, le=1 / 254.9)
    size: Any = None
    crop_size: Any = None
    do_pad: StrictBool | None = None
    pad_size: Any = None
    use_square_size: Literal[False, None] = False
    default_to_square: Literal[False, None] = False

    @model_validator(mode="after")
    def _pads_nothing(self) -> "Preprocessing":
        if self.do_pad and self.pad_size is not None:
            raise ValueError(
                f"do_pad with pad_size {reprlib.repr(self.pad_size)} is not supported: CLIP was trained without"
            )
        return self

    def require_size(self, pixels: int, square: bool, where: Path) -> None:
        """Raise UserError unless images are resized and cropped to the tower's size.

        square  whether images are made square before that; otherwise their shortest edge is resized
        """
        if not square and isinstance(self.size, dict) and set(self.size) != {"shortest_edge"}:
            what = f"size is {reprlib.repr(self.size)}, which would squash images: expected shortest_edge alone"
            raise UserError(what, where=where, fix=f'write "size": {{"shortest_edge": {pixels}}}, as CLIP was trained')
        for name, size in (("size", self.size), ("crop_size", self.crop_size)):
            sides = list(size.values()) if isinstance(size, dict) else [size]
            if size is not None and (not sides or any(side != pixels for side in sides)):
                what = f"{name} is {reprlib.repr(size)}, but the tower takes {pixels} x {pixels} pixels"
                raise UserError(what, where=where, fix="give the preprocessor_config.json of this tower")


class Processor(HfRecord):
    """processor_config.json; before transformers 5 it has no settings of the image processor."""

    image_processor: Preprocessing | None = None


def read_preprocessing(folder: Path) -> tuple[Preprocessing, Path | None]:
    """The settings and the file that has them, found as transformers finds them: processor_config.json, else preprocessor_config.json;
    CLIP's own settings without either. Raises UserError for settings that are not supported."""
    kind, fix = "CLIP's preprocessing", "give the preprocessor_config.json of the tower"
    whole, own = folder / PROCESSOR_FILE, folder / PREPROCESSOR_FILE
    if whole.is_file() and (settings := read_json(whole, Processor, kind, fix).image_processor):
        return settings, whole
    return (read_json(own, Preprocessing, kind, fix), own) if own.is_file() else (Preprocessing(), None)


def read_tower(folder: Path) -> tuple[ClipVisionConfig, Tensors, tuple[Path, ...]]:
    """A CLIPVisionModel's config, its tensors (none where the folder has no weights) and the files that were opened."""
    if not find_weights(folder):
        refuse_by_name(folder)
    require_folder(folder, "pass --vision DIR, the tower's folder with its config.json")
    config = read_json(
        folder / CONFIG_FILE,
        ClipVisionConfig,
        "the config.json of CLIP's vision tower",
        "give CLIP's tower, if the model was trained with it: models with other towers are not supported",
    )
    tensors, files = read_folder(folder, TOWER_KEYS) if find_weights(folder) else ({}, ())
    return config, tensors, (folder / CONFIG_FILE, *files)


def rename_tower(tensors: Tensors, config: ClipVisionConfig, blocks: int, file: str) -> Tensors:
    """A CLIPVisionModel's tensors under our names: the first `blocks` blocks, each with q, k and v as one layer. Raises UserError like
    keys.rename."""
    numbered = {key: BLOCK.match(key) for key in tensors}
    used = {key: tensor for key, tensor in tensors.items() if not (m := numbered[key]) or int(m[1]) < blocks}
    sizes = {
        "width": config.hidden_size,
        "patch": config.patch_size,
        "positions": (config.image_size // config.patch_size) ** 2 + 1,
        "mlp": config.intermediate_size,
    }
    prefix = PREFIX if any(key.startswith(PREFIX) for key in used) else ""
    renamed = rename(used, clip_keys(prefix), sizes, blocks, file)
    for i in range(blocks):
        for kind in ("weight", "bias"):
            parts = [renamed.pop(f"vision.blocks.{i}.{part}.{kind}") for part in "qkv"]
            shape = (3 * parts[0].shape[0], *parts[0].shape[1:])
            renamed[f"vision.blocks.{i}.qkv.{kind}"] = combine(parts, lambda *qkv: torch.cat(qkv), shape)
    return renamed


def towers_differ(first: Tensors, second: Tensors, blocks: int) -> bool:
    """Whether two CLIPVisionModels differ by more than rounding, once or twice, in what the first `blocks` blocks compute; small tensors are read first."""

    def used(tensors: Tensors) -> Tensors:
        plain = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
        numbers = {key: BLOCK.match(key) for key in plain}
        inside = {k: t for k, t in plain.items() if int(numbers[k][1] if numbers[k] else 0) < blocks}
        return {key: tensor for key, tensor in inside.items() if key.startswith(("embeddings.", "pre_", "encoder."))}

    one, other = used(first), used(second)
    shared = sorted(one.keys() & other.keys(), key=lambda key: one[key].numel)
    return any(differ(one[key], other[key], torch.finfo(torch.bfloat16).eps) for key in shared)


def guess_config(tensors: Tensors, name: str | None, file: str, place: str = "DIR") -> ClipVisionConfig:
    """The config of a tower without config.json, from its shapes. Raises UserError where they, or the tower's name on the hub, are not
    those of OpenAI's CLIP ViTs, whose heads and activation no shape tells; place: what to pass to --vision then"""
    width, _, patch, _ = require(tensors, "vision_model.embeddings.patch_embedding.weight", 4, file)
    positions = require(tensors, "vision_model.embeddings.position_embedding.weight", 2, file)[0]
    mlp = require(tensors, "vision_model.encoder.layers.0.mlp.fc1.weight", 2, file)[0]
    numbers = [int(m[1]) for key in tensors if (m := BLOCK.match(key))]
    side = round((positions - 1) ** 0.5)
    others = (name or "").startswith("laion") or width > WIDEST
    if others or width % HEAD_WIDTH or side == 0 or side**2 != positions - 1:
        what = f"the tower has no config.json, and {quoted(name) if name else 'a tower'} of width {width} with {positions} positions is not OpenAI's CLIP"
        raise UserError(what, where=file, fix=f"pass --vision {place}, the tower's folder with its config.json")
    return validated(
        ClipVisionConfig,
        file,
        "check that the file is whole and belongs to this model",
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=1 + max(numbers),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=side * patch,
        patch_size=patch,
    )
