"""LLaVA's base path in transformers: its files are loaded by from_pretrained, images go through its CLIPVisionModel and projector. A LoRA is
merged into the loaded model.

Which tower is built follows LLaVA's code: the checkpoint's own where it was unfrozen, else the folder's.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ...checkpoint.hf_clip import TOWER_KEYS
from ...checkpoint.hf_files import CONFIG_FILE
from ...checkpoint.hugging_face import find_weights, read_folder, stays_inside
from ...checkpoint.layouts import ADAPTER_CONFIG
from ...checkpoint.lora import WEIGHT, A, B
from ...checkpoint.peft import is_lora, read_lora, read_lora_config, scale_of
from ..contract import Sources
from ..llava.files import EVERY_KEY
from ..llava.read import KEYS_AND_PAIRS
from . import exactly, import_transformers, llama_config, require_all, translated
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
    transformers, over_base = import_transformers(), is_lora(sources.ckpt)
    folder = sources.base_weights if over_base else sources.ckpt
    home = sources.ckpt if (sources.ckpt / CONFIG_FILE).is_file() else folder  # of the config
    settings = json.loads((home / CONFIG_FILE).read_text("utf-8"))
    tower = _tower_folder(sources, home, settings)
    fix = "verify without --against" + (
        "" if tower else ", or pass --vision DIR, the tower's folder with its config.json"
    )
    with translated(folder, fix):
        text = llama_config(transformers, home)
        vision = transformers.CLIPVisionConfig.from_pretrained(tower) if tower else None  # None: ViT-L/14 of 336 pixels
        config = transformers.LlavaConfig(
            text_config=text, vision_config=vision, vision_feature_layer=settings["mm_vision_select_layer"]
        )
        model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
            folder, config=config, output_loading_info=True, **exactly(folder, EVERY_KEY, NAMES)
        )
        changed = _change(model, sources.ckpt) if (sources.ckpt / ADAPTER_CONFIG).is_file() else set()
        missing = set(report["missing_keys"]) - changed
        has_own = not any(key.startswith(TOWER) and "post_layernorm" not in key for key in missing)
        trained = settings.get("unfreeze_mm_vision_tower") or any(key.startswith(TOWER) for key in changed)
        if tower and not (has_own and trained) and find_weights(tower):
            model.model.vision_tower = transformers.CLIPVisionModel.from_pretrained(tower, **exactly(tower, TOWER_KEYS))
            missing = {key for key in missing if not key.startswith(TOWER)}
    require_all({key for key in missing if not ATTENTION.match(key) and "post_layernorm" not in key}, folder)
    without_attention = {int(match[1]) for key in missing if (match := ATTENTION.match(key))}
    if sources.base_weights and not over_base:
        _fill(transformers, model.model.language_model, without_attention, sources.base_weights)
        without_attention = set()
    model.eval()

    def encode_images(pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([*model.model.get_image_features(pixels).pooler_output])

    return LlamaWitness(model.model.language_model, model.lm_head, without_attention, encode_images)


@torch.no_grad()
def _change(model: torch.nn.Module, folder: Path) -> set[str]:
    """Put a LoRA's whole tensors into transformers' model, but for EAS's adapters, and merge its pairs. The names of the changed parameters."""
    scale, parameters = scale_of(read_lora_config(folder), folder / ADAPTER_CONFIG), dict(model.named_parameters())
    over_base, changed = is_lora(folder), set()
    tensors, _ = (read_lora if over_base else read_folder)(folder, KEYS_AND_PAIRS)
    for key in sorted(tensors, key=lambda key: key.endswith(A)):
        module, name = key.removesuffix(A), key.replace(A, WEIGHT)
        for pattern, theirs in NAMES.items():
            name = re.sub(pattern, theirs, name)
        if key.endswith(A):
            a, b = (tensors[module + half].read().float() for half in (A, B))
            parameters[name].add_(scale(module, len(a)) * b @ a)
        elif over_base and name in parameters:
            parameters[name].copy_(tensors[key].read())
        else:
            continue
        changed.add(name)
    return changed


def _fill(transformers: ModuleType, llama: torch.nn.Module, layers: Iterable[int], base: Path) -> None:
    """Copy the attentions of these layers from the original model, whose numbers are not widened all at once."""
    with translated(base):
        original, report = transformers.LlamaForCausalLM.from_pretrained(
            base,
            config=llama_config(transformers, base),
            output_loading_info=True,
            **exactly(base, EVERY_KEY, dtype="auto"),
        )
        for i in layers:
            require_all((key for key in report["missing_keys"] if f".layers.{i}.self_attn." in key), base)
            llama.layers[i].self_attn.load_state_dict(original.model.layers[i].self_attn.state_dict())


def _tower_folder(sources: Sources, home: Path, settings: dict[str, Any]) -> Path | None:
    named = settings.get("mm_vision_tower")
    inside = home / named if isinstance(named, str) and stays_inside(named) else None
    return sources.vision or (inside if inside and inside.is_dir() else None)
