"""LLaVA-EAS's files: a Hugging Face folder of the LLaVA-1.5 layout, and CLIP's vision tower in Hugging Face's layout.

Formats, from the published training code:
- a fine-tuned checkpoint has self_attn and adapter_attn in kept layers and replaced_adapter in skipped ones: the only record of the
  skip list; a checkpoint of the search stage has all three in every layer
- scale 1 and temperature 10 are constants of the code, stored in no file; adapter_attn's router has no bias
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.eas_adapter import rank_sizes
from ...checkpoint.hf_clip import rename_tower
from ...checkpoint.hf_files import BESIDE_TOKENIZER, CONFIG_FILE, OF_THE_MODEL
from ...checkpoint.hf_keys import TIED_HEAD, UNTIED_HEAD, attention_keys, text_sizes
from ...checkpoint.hf_text import require_vocabulary, tie
from ...checkpoint.hugging_face import Tensors, left_over, read_folder
from ...checkpoint.keys import rename, require
from ...checkpoint.layouts import ADAPTER_CONFIG
from ...checkpoint.lazy_tensor import LazyTensor
from ...checkpoint.peft import is_lora
from ...checkpoint.state_dict import first_unknown
from ...core.configs.decoder import ModelConfig
from ...core.errors import UserError
from ...core.plan import SkipEvidence
from ...core.record import quoted, validated
from ..contract import Sources
from ..processing.tokenizer import find_tokenizer
from .files import EVERY_KEY, LlavaConfig, layer_keys
from .read import Published, read_model, require_same_attentions
from .tower import Tower, find_tower

SCALE, TEMPERATURE = 1.0, 10.0  # constants of the published code
PART = re.compile(r"model\.layers\.(\d{1,4})\.(self_attn\.\w_proj|adapter_attn|replaced_adapter)\.")


@dataclass(frozen=True)
class _Layers:
    """The layers with an attention, with the adapter before it, and with the adapter in its place."""

    count: int
    attention: frozenset[int]
    kept: frozenset[int]
    skipped: frozenset[int]

    @property
    def groups(self) -> dict[str, frozenset[int]]:
        """By their names in key tables."""
        return {"attention": self.attention, "kept": self.kept, "skipped": self.skipped}

    def evidence(self, folder: Path) -> SkipEvidence:
        """Layers without an attention are skipped, none in a plain model. Layers with both leave the skip list undecided."""
        both = sorted(self.attention & self.kept & self.skipped)
        if both:
            return SkipEvidence(text=None, origin=f"{folder}: layers {_list(both)} have self_attn and replaced_adapter")
        text = str(sorted(self.skipped)) if self.skipped else "none"
        return SkipEvidence(text=text, origin=f"the layers with replaced_adapter in {folder.resolve().name}")

    def system(self, folder: Path, has_lora: bool) -> dict[str, str]:
        """The published system and what told it, as fields of Checkpoint."""
        found = "replaced_adapter" if self.skipped else "adapter_attn" if self.kept else "no adapter"
        name = "LLaVA-EAS" if self.skipped or self.kept else "LLaVA"
        keys = f"{found} in the keys of {folder.resolve().name}"
        if has_lora:
            return {"system": f"{name} with a LoRA", "known_by": f"{ADAPTER_CONFIG}, and {keys}"}
        return {"system": name, "known_by": keys}


def load(sources: Sources) -> Checkpoint:
    """Read the headers of the model's and the tower's files. Raises UserError for missing, unknown, mis-shaped or mismatched tensors."""
    return assemble(sources, read_model(sources))


def assemble(sources: Sources, model: Published) -> Checkpoint:
    """Build a Checkpoint from published tensors. Raises UserError as `load` does."""
    folder, config, files = model.home, model.config, model.files
    published, tied, notes = tie(model.tensors, config)
    layers = _find_layers(published, config.num_hidden_layers, folder)
    tower = find_tower(config, replace(sources, ckpt=folder), published)
    notes = (*model.notes, *notes, *tower.notes, *config.notes())
    sizes = _sizes(config, published, layers, tower, folder)

    table = {**layer_keys(config.attention_bias, config.mlp_bias), **(TIED_HEAD if tied else UNTIED_HEAD)}
    tensors = rename(published, table, sizes, layers.count, str(folder), layers.groups)
    tensors |= rename_tower(tower.tensors, tower.config, tower.blocks, tower.where)
    tensors |= {f"layers.{i}.kept_adapter.e": _zeros("no router bias in adapter_attn", 2) for i in layers.kept}
    if sources.base_weights and not is_lora(sources.ckpt):
        extra, base_files, of_base = _from_base(sources.base_weights, config, layers, sizes)
        tensors, files, notes = tensors | extra, (*files, *base_files), (*notes, *of_base)
    tokenizer = find_tokenizer(model.folders, sources.tokenizer, beside=BESIDE_TOKENIZER)
    if tokenizer:
        tokenizer = (*tokenizer, *filter(None, map(model.find, OF_THE_MODEL)))
    return Checkpoint(
        config=_config(config, sizes, tower, tied, sources),
        tensors=tensors,
        evidence=layers.evidence(folder),
        files=tuple(dict.fromkeys((folder / CONFIG_FILE, *files, *tower.files, *tokenizer))),
        notes=notes,
        tokenizer=tokenizer,
        **layers.system(folder, any(path.name == ADAPTER_CONFIG for path in files)),
    )


def _find_layers(published: Tensors, count: int, folder: Path) -> _Layers:
    members: dict[str, set[int]] = {"self_attn": set(), "adapter_attn": set(), "replaced_adapter": set()}
    for key in published:
        if (match := PART.match(key)) and int(match[1]) < count:
            members[match[2].split(".")[0]].add(int(match[1]))
    layers = _Layers(count, *map(frozenset, members.values()))
    if len(layers.attention) == count and not layers.kept | layers.skipped:  # a plain model
        return layers
    for i in range(count):
        if i not in layers.skipped and not (i in layers.attention and i in layers.kept):
            missing = "no adapter_attn" if i in layers.attention else "neither replaced_adapter nor self_attn"
            unknown = first_unknown(published, EVERY_KEY)
            also = f"; the first key that is not LLaVA's is {quoted(unknown)}" if unknown else ""
            raise UserError(
                f"layer {i} has {missing}{also}",
                where=folder,
                fix="give a checkpoint that EAS's training wrote, with all its files, or train one with eas-export search",
            )
    return layers


def _sizes(config: LlavaConfig, published: Tensors, layers: _Layers, tower: Tower, folder: Path) -> dict[str, int]:
    """The sizes that the key table names. Raises UserError where the embedding does not match the config, and for invalid ranks."""
    require_vocabulary(config, published, folder)
    ranks = {}
    for name, part, members in (("kept", "adapter_attn", layers.kept), ("skipped", "replaced_adapter", layers.skipped)):
        if members:
            key = f"model.layers.{min(members)}.{part}.conv_A.weight"
            ranks[name] = require(published, key, 3, str(folder))[0]
    if ranks:
        ranks = dict.fromkeys(("kept", "skipped"), max(ranks.values())) | ranks  # a kind that no layer has
    return {**text_sizes(config), "width": tower.config.hidden_size, **rank_sizes(ranks, folder)}


def _from_base(
    base: Path, config: LlavaConfig, layers: _Layers, sizes: dict[str, int]
) -> tuple[Tensors, tuple[Path, ...], tuple[str, ...]]:
    """The checkpoint's missing attentions, from the model it was trained from; that model's files; and a note. The adapters before
    these attentions were never trained: they are zeros, which have no effect."""
    published, files = read_folder(base, EVERY_KEY)
    require_same_attentions(base, config)
    missing = sorted(set(range(layers.count)) - layers.attention)
    untrained = sorted(set(range(layers.count)) - layers.kept) if "kept" in sizes else []
    wanted = {
        key: tensor
        for key, tensor in published.items()
        if (m := PART.match(key)) and m[2].startswith("self_attn") and int(m[1]) in missing
    }
    table = attention_keys(config.architecture, config.attention_bias, "missing")
    tensors = rename(wanted, table, sizes, layers.count, str(base), {"missing": missing})
    tensors |= {name: tensor for i in untrained for name, tensor in _untrained_adapter(i, sizes).items()}
    name = base.resolve().name
    note = f"layers {_list(missing)}, where kept, have the attention of {name}; adapters before it have no effect"
    return tensors, (base / CONFIG_FILE, *files), (*left_over(base), *((note,) if missing else ()))


def _untrained_adapter(layer: int, sizes: dict[str, int]) -> Tensors:
    dim, rank = sizes["dim"], sizes["kept"]
    shapes = {"A": (rank, dim), "a": (rank,), "B": (dim, rank), "b": (dim,), "D": (dim, rank), "d": (dim,)}
    shapes |= {"E": (2, dim), "e": (2,)}
    return {f"layers.{layer}.kept_adapter.{name}": _zeros("never trained", *shape) for name, shape in shapes.items()}


def _config(config: LlavaConfig, sizes: dict[str, int], tower: Tower, tied: bool, sources: Sources) -> ModelConfig:
    scale = SCALE if sources.adapter_scale is None else sources.adapter_scale
    temperature = TEMPERATURE if sources.router_temperature is None else sources.router_temperature
    clip, adapters = tower.config, dict.fromkeys(("kept_adapter", "skipped_adapter"))
    if "kept" in sizes:
        adapters = {
            f"{kind}_adapter": dict(rank=sizes[kind], scale=scale, temperature=temperature)
            for kind in ("kept", "skipped")
        }
    return validated(
        ModelConfig,
        sources.ckpt,
        "check that the files are complete and belong together",
        family="llava",
        modality_token=False,
        tied_head=tied,
        **adapters,
        vision=dict(
            image_size=clip.image_size,
            patch_size=clip.patch_size,
            width=clip.hidden_size,
            blocks=tower.blocks,
            heads=clip.num_attention_heads,
            ffn_dim=clip.intermediate_size,
            activation=clip.hidden_act,
            norm_eps=clip.layer_norm_eps,
            features="patches",
            feature_every=tower.blocks,
            projector_width=config.hidden_size,
            projector_activation="gelu",
            image=dict(square=config.square, mean=tower.preprocessing.image_mean, std=tower.preprocessing.image_std),
        ),
        **config.model_fields_of(),
    )


def _zeros(why: str, *shape: int) -> LazyTensor:
    return LazyTensor(shape, torch.float32, why, lambda: torch.zeros(shape))


def _list(layers: Collection[int]) -> str:
    return ", ".join(map(str, layers))
