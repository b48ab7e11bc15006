"""OpenAI's CLIP: the keys of its ViT's state dict. The text encoder and everything after the last block are left out."""

from collections.abc import Mapping
from dataclasses import dataclass

from .keys import Key, KeyTable, count_blocks, require
from .lazy_tensor import LazyTensor

HEAD_WIDTH = 64  # of every CLIP ViT

_BLOCK = "visual.transformer.resblocks.{i}"

CLIP_KEYS: KeyTable = {
    "visual.class_embedding": Key("vision.class_embedding", ("width",)),
    "visual.positional_embedding": Key("vision.position_embedding", ("positions", "width")),
    "visual.conv1.weight": Key("vision.patch.weight", ("width", 3, "patch", "patch")),
    "visual.ln_pre.weight": Key("vision.norm.weight", ("width",)),
    "visual.ln_pre.bias": Key("vision.norm.bias", ("width",)),
    f"{_BLOCK}.attn.in_proj_weight": Key("vision.blocks.{i}.qkv.weight", ("3*width", "width")),
    f"{_BLOCK}.attn.in_proj_bias": Key("vision.blocks.{i}.qkv.bias", ("3*width",)),
    f"{_BLOCK}.attn.out_proj.weight": Key("vision.blocks.{i}.out.weight", ("width", "width")),
    f"{_BLOCK}.attn.out_proj.bias": Key("vision.blocks.{i}.out.bias", ("width",)),
    f"{_BLOCK}.ln_1.weight": Key("vision.blocks.{i}.norm1.weight", ("width",)),
    f"{_BLOCK}.ln_1.bias": Key("vision.blocks.{i}.norm1.bias", ("width",)),
    f"{_BLOCK}.ln_2.weight": Key("vision.blocks.{i}.norm2.weight", ("width",)),
    f"{_BLOCK}.ln_2.bias": Key("vision.blocks.{i}.norm2.bias", ("width",)),
    f"{_BLOCK}.mlp.c_fc.weight": Key("vision.blocks.{i}.fc1.weight", ("4*width", "width")),
    f"{_BLOCK}.mlp.c_fc.bias": Key("vision.blocks.{i}.fc1.bias", ("4*width",)),
    f"{_BLOCK}.mlp.c_proj.weight": Key("vision.blocks.{i}.fc2.weight", ("width", "4*width")),
    f"{_BLOCK}.mlp.c_proj.bias": Key("vision.blocks.{i}.fc2.bias", ("width",)),
    "visual.ln_post.*": None,  # the class token is read before it
    "visual.proj": None,
    "transformer.*": None,  # the text encoder
    "token_embedding.weight": None,
    "positional_embedding": None,
    "ln_final.*": None,
    "text_projection": None,
    "logit_scale": None,
    "input_resolution": None,
    "context_length": None,
    "vocab_size": None,
}


@dataclass(frozen=True)
class ClipSizes:
    """A ViT's sizes, from its tensors' shapes."""

    width: int
    patch: int
    positions: int
    blocks: int

    @property
    def is_published(self) -> bool:
        """Whether they fit a published CLIP ViT: heads of 64, a square of patches and one class token."""
        return bool(self.blocks) and not self.width % HEAD_WIDTH and self._side**2 == self.positions - 1

    @property
    def config(self) -> dict[str, int]:
        """The fields of a VitConfig."""
        return {
            "image_size": self.patch * self._side,
            "patch_size": self.patch,
            "width": self.width,
            "blocks": self.blocks,
            "heads": self.width // HEAD_WIDTH,
            "ffn_dim": 4 * self.width,
        }

    @property
    def _side(self) -> int:
        return round((self.positions - 1) ** 0.5)


def clip_sizes(tensors: Mapping[str, LazyTensor], file: str, prefix: str = "") -> ClipSizes:
    """prefix: of CLIP's keys in the file. Raises UserError where the first of them are missing or of another rank."""
    width, _, patch, _ = require(tensors, f"{prefix}visual.conv1.weight", 4, file)
    positions = require(tensors, f"{prefix}visual.positional_embedding", 2, file)[0]
    return ClipSizes(width, patch, positions, count_blocks(tensors, f"{prefix}visual.transformer.resblocks"))
