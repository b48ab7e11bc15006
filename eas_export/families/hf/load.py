"""Read a Hugging Face text decoder, plain or with PIA adapters in LLaVA-EAS's form: adapter_attn before a kept attention, replaced_adapter in
place of a skipped one."""

import re
from pathlib import Path

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.eas_adapter import adapter_keys, rank_sizes
from ...checkpoint.hf_files import BESIDE_TOKENIZER, CHAT_TEMPLATE, CONFIG_FILE, OF_THE_MODEL
from ...checkpoint.hf_keys import (
    EVERY_TEXT_KEY,
    TIED_HEAD,
    UNTIED_HEAD,
    from_config,
    split_fused,
    text_keys,
    text_sizes,
)
from ...checkpoint.hf_text import TextConfig, require_vocabulary, tie
from ...checkpoint.hugging_face import NO_WEIGHTS, Tensors, find_weights, left_over, read_folder
from ...checkpoint.json_file import read_json
from ...checkpoint.keys import KeyTable, rename, require
from ...core.configs.decoder import ModelConfig
from ...core.errors import UserError
from ...core.plan import SkipEvidence
from ...core.record import validated
from ..contract import Sources
from ..processing.tokenizer import find_tokenizer

SCALE, TEMPERATURE = 1.0, 10.0  # of adapters, where no option says otherwise: those of LLaVA-EAS
PART = re.compile(r"model\.layers\.(\d{1,4})\.(self_attn|adapter_attn|replaced_adapter)\.")
ADAPTER_KEYS: KeyTable = {
    **adapter_keys("model.layers.{kept}.adapter_attn", "layers.{i}.kept_adapter", "dim", "kept", "A"),
    **adapter_keys("model.layers.{skipped}.replaced_adapter", "layers.{i}.skipped_adapter", "dim", "skipped", "AC"),
}
EVERY_KEY: KeyTable = {**EVERY_TEXT_KEY, **ADAPTER_KEYS}


def load(sources: Sources) -> Checkpoint:
    """Read the headers of the model's files. Raises UserError for missing, unknown, mis-shaped or mismatched tensors, and for an architecture
    that is not supported."""
    config = read_config(sources.ckpt)
    return assemble(sources, config, *read_tensors(sources, config))


def read_tensors(sources: Sources, config: TextConfig) -> tuple[Tensors, tuple[Path, ...], tuple[str, ...]]:
    """The model's tensors by their published keys, the files that have them, and notes."""
    folder = sources.ckpt
    if sources.shapes and find_weights(folder) is None:
        return from_config(config, folder), (), (f"{NO_WEIGHTS}: shapes are those of {CONFIG_FILE}",)
    return *read_folder(folder, EVERY_KEY), left_over(folder)


def assemble(
    sources: Sources, config: TextConfig, published: Tensors, files: tuple[Path, ...], said: tuple[str, ...] = ()
) -> Checkpoint:
    """Build a Checkpoint from published tensors, read from `files`, with notes about them. Raises UserError as `load` does."""
    folder = sources.ckpt
    published, tied, notes = tie(split_fused(published, config), config)
    require_vocabulary(config, published, folder)
    groups = find_layers(published, config, folder)
    sizes = {**text_sizes(config), **_ranks(published, groups, folder)}
    table = {
        **text_keys(config.architecture, config.attention_bias, config.mlp_bias, "attention"),
        **ADAPTER_KEYS,
        **(TIED_HEAD if tied else UNTIED_HEAD),
    }
    tensors = rename(published, table, sizes, config.num_hidden_layers, str(folder), groups)
    tokenizer = find_tokenizer([folder], sources.tokenizer, beside=(*BESIDE_TOKENIZER, CHAT_TEMPLATE))
    if tokenizer:
        tokenizer = (*tokenizer, *(folder / name for name in OF_THE_MODEL if (folder / name).is_file()))
    name = config.architecture.class_
    adapted = bool(groups["kept"] or groups["skipped"])
    return Checkpoint(
        config=_config(config, sizes, tied, sources),
        tensors=tensors,
        evidence=_evidence(groups, folder),
        files=tuple(dict.fromkeys((folder / CONFIG_FILE, *files, *tokenizer))),
        notes=(*said, *notes, *config.notes()),
        tokenizer=tokenizer,
        system=f"{name} with PIA adapters" if adapted else name,
        known_by=f"model_type {config.model_type} in {CONFIG_FILE}",
    )


def read_config(folder: Path) -> TextConfig:
    fix = f"give a model of a supported architecture, or correct {CONFIG_FILE} where it says something else than its training did"
    return read_json(folder / CONFIG_FILE, TextConfig, "the config.json of a supported text decoder", fix)


def find_layers(published: Tensors, config: TextConfig, folder: Path) -> dict[str, frozenset[int]]:
    """The layers with an attention, with the adapter before it ("kept"), and with the adapter in its place ("skipped"). Raises UserError for
    a layer that has neither an attention nor what replaces it."""
    members: dict[str, set[int]] = {"self_attn": set(), "adapter_attn": set(), "replaced_adapter": set()}
    for key in published:
        if (match := PART.match(key)) and int(match[1]) < config.num_hidden_layers:
            members[match[2]].add(int(match[1]))
    attention, kept, skipped = map(frozenset, members.values())
    for i in range(config.num_hidden_layers) if kept or skipped else ():
        if i not in skipped and not (i in attention and i in kept):
            missing = "no adapter_attn" if i in attention else "neither replaced_adapter nor self_attn"
            fix = "give a whole checkpoint, or train one with eas-export search"
            raise UserError(f"layer {i} has {missing}", where=folder, fix=fix)
    if not kept | skipped:
        attention = frozenset(range(config.num_hidden_layers))  # a plain model has all
    return {"attention": attention, "kept": kept, "skipped": skipped}


def _evidence(groups: dict[str, frozenset[int]], folder: Path) -> SkipEvidence:
    both = sorted(groups["attention"] & groups["kept"] & groups["skipped"])
    if both:
        listed = ", ".join(map(str, both))
        return SkipEvidence(text=None, origin=f"{folder}: layers {listed} have self_attn and replaced_adapter")
    text = str(sorted(groups["skipped"])) if groups["skipped"] else "none"
    return SkipEvidence(text=text, origin=f"the keys of {folder.resolve().name}")


def _ranks(published: Tensors, groups: dict[str, frozenset[int]], folder: Path) -> dict[str, int]:
    ranks = {}
    for name, part in (("kept", "adapter_attn"), ("skipped", "replaced_adapter")):
        if groups[name]:
            key = f"model.layers.{min(groups[name])}.{part}.conv_A.weight"
            ranks[name] = require(published, key, 3, str(folder))[0]
    if ranks:
        ranks = dict.fromkeys(("kept", "skipped"), max(ranks.values())) | ranks  # a kind that no layer has
    return rank_sizes(ranks, folder)


def _config(config: TextConfig, sizes: dict[str, int], tied: bool, sources: Sources) -> ModelConfig:
    scale = SCALE if sources.adapter_scale is None else sources.adapter_scale
    temperature = TEMPERATURE if sources.router_temperature is None else sources.router_temperature
    adapters = {
        f"{kind}_adapter": dict(rank=sizes[kind], scale=scale, temperature=temperature) if kind in sizes else None
        for kind in ("kept", "skipped")
    }
    return validated(
        ModelConfig,
        sources.ckpt,
        "check that the files are complete and belong together",
        family="hf",
        modality_token=False,
        vision=None,
        tied_head=tied,
        **adapters,
        **config.model_fields_of(),
    )
