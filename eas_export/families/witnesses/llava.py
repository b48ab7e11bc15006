"""LLaVA's base path in transformers: its files are loaded by from_pretrained, images go through its CLIPVisionModel and projector.

Which tower is built follows LLaVA's code: the checkpoint's own where it was unfrozen, else the folder's.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch

from ...checkpoint.hf_files import CONFIG_FILE
from ...checkpoint.hugging_face import find_weights, stays_inside
from ...core.errors import UserError
from ..contract import Sources
from . import import_transformers, translated
from .llama import LlamaWitness

NAMES = {  # LLaVA's names as patterns -> transformers'
    r"^model\.mm_projector\.0": "model.multi_modal_projector.linear_1",
    r"^model\.mm_projector\.2": "model.multi_modal_projector.linear_2",
    r"^model\.vision_tower\.vision_tower\.(vision_model\.)?": "model.vision_tower.",
    r"^model\.(layers|norm|embed_tokens)": r"model.language_model.\1",
}
ATTENTION = re.compile(r"model\.language_model\.layers\.(\d+)\.self_attn\.")
TOWER = "model.vision_tower."


def open_witness(sources: Sources) -> LlamaWitness:
    """Raises UserError where transformers is not installed, cannot load the files, or finds a tensor missing that is not an attention."""
    transformers, folder = import_transformers(), sources.ckpt
    settings = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    tower = _tower_folder(sources, settings)
    # eager: a file may name an implementation that would be downloaded
    exact: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "attn_implementation": "eager"}
    fix = "verify without --against" + (
        "" if tower else ", or pass --vision DIR, the tower's folder with its config.json"
    )
    with translated(folder, fix):
        text = transformers.LlamaConfig.from_pretrained(folder)
        vars(text).pop("quantization_config", None)  # left over: `load` refuses weights that are quantised
        vision = transformers.CLIPVisionConfig.from_pretrained(tower) if tower else None  # None: ViT-L/14 of 336 pixels
        config = transformers.LlavaConfig(
            text_config=text, vision_config=vision, vision_feature_layer=settings["mm_vision_select_layer"]
        )
        model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
            folder, config=config, key_mapping=NAMES, output_loading_info=True, **exact
        )
        missing = set(report["missing_keys"])
        has_own = not any(key.startswith(TOWER) and "post_layernorm" not in key for key in missing)
        if tower and not (has_own and settings.get("unfreeze_mm_vision_tower")) and find_weights(tower):
            model.model.vision_tower = transformers.CLIPVisionModel.from_pretrained(tower, **exact)
            missing = {key for key in missing if not key.startswith(TOWER)}
    unexpected = [key for key in missing if not ATTENTION.match(key) and "post_layernorm" not in key]
    if unexpected:
        what = f"transformers finds no tensor for {min(unexpected)}"
        raise UserError(what, where=folder, fix="check that the files are whole; verify without --against")
    without_attention = {int(match[1]) for key in missing if (match := ATTENTION.match(key))}
    model.eval()

    def encode_images(pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([*model.model.get_image_features(pixels).pooler_output])

    return LlamaWitness(model.model.language_model, model.lm_head, without_attention, encode_images)


def _tower_folder(sources: Sources, settings: dict[str, Any]) -> Path | None:
    named = settings.get("mm_vision_tower")
    inside = sources.ckpt / named if isinstance(named, str) and stays_inside(named) else None
    return sources.vision or (inside if inside and inside.is_dir() else None)
