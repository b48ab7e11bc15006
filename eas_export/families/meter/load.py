"""Read METER's file: one PyTorch Lightning checkpoint (`last.ckpt`) with RoBERTa, CLIP's ViT, the cross-modal layers and a task's head.

Format, from the published training code: {state_dict, hyper_parameters.config, ...}; a state dict alone is read, too. Every attention is
in the file, even the skipped ones. No file records RoBERTa's number of heads. What EAS and DAS add is in systems.py.
"""

import reprlib
from pathlib import Path
from typing import Any

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.hf_files import MERGES, TOKENIZER_JSON, VOCAB
from ...checkpoint.keys import count_blocks, rename, require
from ...checkpoint.labels import read_labels
from ...checkpoint.lazy_tensor import LazyTensor
from ...checkpoint.lightning import read_lightning
from ...checkpoint.openai_clip import ClipSizes, clip_sizes
from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.errors import UserError
from ...core.record import validated
from ...system.files import only_file
from ..contract import Sources
from ..numbers import Number, called, setting, settle
from ..processing.tokenizer import find_tokenizer
from .keys import CROSS_KEYS, EVERY_KEY, HEAD_KEYS, LAYER, TASKS, TEXT, TEXT_KEYS, VISION_KEYS
from .systems import System, Tensors, find_system

ROBERTA_HEADS = {768: 12, 1024: 16}  # width -> heads of base and large
ROBERTA_USUAL = "RoBERTa base: 12, large: 16"
NUMBERS = {  # beside the text encoder's heads
    "text_length": Number("how long its texts were padded", "VQA and NLVR2: 50, retrieval: 40", "max_text_len"),
    "cross_heads": Number("how many heads its cross-modal layers have", "published: 12", "num_heads"),
}
AS_TRAINED = "give the checkpoint as fine-tuning wrote it"
NO_LABELS = "answers are numbers: build with --labels FILE, the list of answers in the order of training, to have words"
FIRST_PLACE = 2  # RoBERTa's position of a text's first token


def load(sources: Sources) -> Checkpoint:
    """Read the file's headers. Raises UserError for missing, unknown, mis-shaped or mismatched tensors."""
    file = sources.ckpt
    if file.is_dir():
        file = only_file(file, ("*.ckpt",), "name the checkpoint: --ckpt FILE", "--ckpt FILE")
    published, settings = read_lightning(file, EVERY_KEY)
    task, (system, known_by) = _task(published, file), find_system(published, file)
    sizes, counts, vit = _sizes(published, task, system, file)
    config = _config(task, system, sizes, counts, vit, settings, sources, file)
    tensors: dict[str, LazyTensor] = {}
    parts = {"text": TEXT_KEYS, "vit": VISION_KEYS, "cross": CROSS_KEYS | system.keys | HEAD_KEYS[task]}
    for part, table in parts.items():
        own = {key: tensor for key, tensor in published.items() if _part(key) == part}
        tensors |= rename(own, table, sizes, counts[part], str(file))
    _require_read_alike(config, settings, file)
    if sources.image_cross_reading == "paper" and (config.site == "layer" or config.skipped_adapter is None):
        what = f"{system.name} has no indices of attentions that could be read in two ways"
        raise UserError(what, where="--image-cross-reading", fix="leave --image-cross-reading out")
    tokenizer = find_tokenizer([file.parent], sources.tokenizer, (TOKENIZER_JSON, VOCAB), (MERGES,))
    labels = _labels(sources, config)
    return Checkpoint(
        config=config,
        tensors=tensors,
        evidence=system.skips(published, settings, config, file),
        files=(file, *tokenizer),
        tokenizer=tokenizer,
        labels=labels,
        notes=() if labels or config.task != "vqa" else (NO_LABELS,),
        system=system.name,
        known_by=known_by,
    )


def _part(key: str) -> str:
    return {"text_transformer": "text", "vit_model": "vit"}.get(key.split(".")[0], "cross")


def _task(published: Tensors, file: Path) -> str:
    tasks = [task for key, task in TASKS.items() if key in published]
    if len(tasks) != 1:
        what = f"the checkpoint has {'heads for ' + ' and '.join(tasks) if tasks else 'no task head'}"
        fix = f"give a checkpoint that was fine-tuned for one task: it has one of {', '.join(TASKS)}"
        raise UserError(what, where=file, fix=fix)
    return tasks[0]


def _sizes(
    published: Tensors, task: str, system: System, file: Path
) -> tuple[dict[str, int], dict[str, int], ClipSizes]:
    """The sizes that the key tables name, each part's number of blocks, and the tower's sizes. Raises UserError where no METER model
    has them."""

    def shape(key: str, rank: int) -> tuple[int, ...]:
        return require(published, key, rank, str(file))

    layer = "cross_modal_text_layers.0"
    vocab, text_width = shape(f"{TEXT}.embeddings.word_embeddings.weight", 2)
    vit = clip_sizes(published, str(file), "vit_model.")
    ranks = system.sizes(published, file)
    counts = {
        "text": count_blocks(published, "text_transformer.encoder.layer"),
        "vit": vit.blocks,
        "cross": count_blocks(published, "cross_modal_text_layers"),
    }
    if 0 in counts.values() or not vit.is_published:
        raise UserError(
            f"{counts['text']} text layers, {counts['cross']} cross-modal layers and a vision tower of {counts['vit']} blocks, "
            f"width {vit.width} and {vit.positions} positions do not fit METER",
            where=file,
            fix="check that the file is complete: layers of each kind, a width divisible by 64, a square of patches and one class token",
        )
    sizes = {
        "vocab": vocab,
        "text_width": text_width,
        "text_positions": shape(f"{TEXT}.embeddings.position_embeddings.weight", 2)[0],
        "text_types": shape(f"{TEXT}.embeddings.token_type_embeddings.weight", 2)[0],
        "text_ffn": shape(LAYER.format(i=0) + ".intermediate.dense.weight", 2)[0],
        "width": vit.width,
        "patch": vit.patch,
        "positions": vit.positions,
        "dim": shape("cross_modal_text_transform.weight", 2)[0],
        "ffn": shape(f"{layer}.intermediate.dense.weight", 2)[0],
        "types": 3 if task == "nlvr2" else 2,  # text, image, and for NLVR2 the second image
        "answers": shape(next(key for key, each in TASKS.items() if each == task), 2)[0],
    }
    return sizes | ranks, counts, vit


def _config(
    task: str,
    system: System,
    sizes: dict[str, int],
    counts: dict[str, int],
    vit: ClipSizes,
    settings: dict[str, Any],
    sources: Sources,
    file: Path,
) -> CrossEncoderConfig:
    width, longest = sizes["text_width"], sizes["text_positions"] - FIRST_PLACE
    heads = {"text_heads": ROBERTA_HEADS.get(width)}
    names = NUMBERS | {"text_heads": Number(f"how many heads its text encoder of width {width} has", ROBERTA_USUAL)}
    numbers = settle(names, settings, sources, file, **heads)
    length = numbers["text_length"]

    def name(field: str) -> str:
        return called(field, names[field], sources)

    if length > longest:
        what = f"{name('text_length')} is {length}, but RoBERTa's position table has room for {longest} tokens"
        raise UserError(what, where=file, fix="give the number that the model was trained with")
    return validated(
        CrossEncoderConfig,
        file,
        "check that the file is complete and belongs to this model",
        family="meter",
        task=task,
        dim=sizes["dim"],
        heads=_dividing(numbers["cross_heads"], sizes["dim"], name("cross_heads"), file),
        ffn_dim=sizes["ffn"],
        layers=counts["cross"],
        text=dict(
            vocab_size=sizes["vocab"],
            positions=sizes["text_positions"],
            token_types=sizes["text_types"],
            width=width,
            layers=counts["text"],
            heads=_dividing(numbers["text_heads"], width, name("text_heads"), file),
            ffn_dim=sizes["text_ffn"],
        ),
        image=vit.config,
        image_transform=_transform(settings),
        text_length=length,
        answers=sizes["answers"],
        image_cross_reading=sources.image_cross_reading or "published",
        **system.config(sizes),
    )


def _transform(settings: dict[str, Any]) -> str:
    """The names of the transforms of an image by which the model was validated; "clip" where no list of them can be read, as in every
    published config with a CLIP."""
    names = settings.get("val_transform_keys")
    if not isinstance(names, list | tuple):
        return "clip"
    return ", ".join(name if isinstance(name, str) else reprlib.repr(name) for name in names)[:100]


def _require_read_alike(config: CrossEncoderConfig, settings: dict[str, Any], file: Path) -> None:
    """Raise UserError for a text encoder that is not RoBERTa, whose tensors have the same names, and for settings that say other sizes
    than the tensors: by them the published code would resize the position table, or leave layers out."""
    where = f"{file}: hyper_parameters"
    tokenizer = settings.get("tokenizer", "roberta-base")
    if not isinstance(tokenizer, str) or "roberta" not in tokenizer:
        named = reprlib.repr(tokenizer) if isinstance(tokenizer, str) else f"of type {type(tokenizer).__name__}"
        what = f"tokenizer is {named}: only RoBERTa is supported as the text encoder"
        raise UserError(what, where=where, fix="give a checkpoint that was trained with text_roberta")
    if "tokenizer" not in settings and config.text.token_types != 1:
        what = f"the text encoder has {config.text.token_types} token types, as BERT has: only RoBERTa, which has 1, is supported"
        raise UserError(what, where=file, fix="give a checkpoint that was trained with text_roberta")
    patch = config.image.patch_size  # an image's rest beside its patches is not read
    for name, size, unit in (("num_top_layer", config.layers, 1), ("image_size", config.image.image_size, patch)):
        if name in settings and setting(settings, name, file, AS_TRAINED) // unit != size // unit:
            what = f"{name} is {settings[name]}, but the tensors are those of {size}"
            raise UserError(what, where=where, fix=AS_TRAINED)


def _labels(sources: Sources, config: CrossEncoderConfig) -> tuple[str, ...]:
    if sources.labels is None:
        return ()
    if config.task != "vqa":
        what = f"a model for {config.task} chooses among no answers of a list"
        raise UserError(what, where=f"--labels {sources.labels}", fix="leave --labels out")
    return read_labels(sources.labels, config.answers)


def _dividing(heads: int, width: int, name: str, file: Path) -> int:
    if width % heads:
        what = f"{name} is {heads}, which does not divide the width {width}"
        raise UserError(what, where=file, fix="give the number that the model was trained with")
    return heads
