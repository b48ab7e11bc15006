"""WHO: the model families. To add one, write its file with a Family in it and add its row here."""

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.hf_files import CONFIG_FILE, MERGES, TOKENIZER_JSON, TOKENIZERS, VOCAB
from ..checkpoint.state_dict import keys_of, refuse_by_name
from ..core.configs import AnyConfig
from ..core.errors import UserError
from ..core.record import quoted
from ..core.registry import lookup
from ..system.files import require_file
from .contract import Family, Sources
from .processing.roberta_tokenizer import RobertaTokenizer
from .processing.tokenizer import Tokenizer

FAMILIES = {
    "lavin": ".families.lavin:LAVIN",
    "llava": ".families.llava:LLAVA",
    "hf": ".families.hf:HF",
    "meter": ".families.meter:METER",
}

_NONE = "there is no tokenizer, so that `run` takes arrays of token ids and no text: put"
NO_TOKENIZER = f"{_NONE} {' or '.join(TOKENIZERS)} into the checkpoint, or pass --tokenizer PATH"
NO_PAIR_TOKENIZER = (
    f"{_NONE} RoBERTa's {VOCAB} and {MERGES}, or its {TOKENIZER_JSON}, beside the checkpoint, or pass --tokenizer DIR"
)


def get_family(name: str) -> Family:
    return lookup(FAMILIES, name, "model family", "manifest")


def make_tokenizer(files: Sequence[Path], config: AnyConfig) -> Tokenizer | RobertaTokenizer:
    """A model's tokenizer from its files (Checkpoint.tokenizer). Raises UserError where they are another model's or damaged."""
    family = get_family(config.family)
    return (family.prompts or family.pairs).tokenizer(files, config.vocab_size)


def tokenizer_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What the user should know about the model's tokenizer, a sentence each. Raises UserError as make_tokenizer does: the files are copied
    as they are."""
    family = get_family(checkpoint.config.family)
    if checkpoint.tokenizer:
        return make_tokenizer(checkpoint.tokenizer, checkpoint.config).notes()
    return (NO_TOKENIZER,) if family.prompts else (NO_PAIR_TOKENIZER,) if family.pairs else ()


def detect(path: Path) -> Family:
    """The family of the checkpoint at `path`. Raises UserError for an unknown layout."""
    if not path.exists():
        raise UserError("there is no such file or folder", where=path, fix="check the path")
    if family := _family_of(path):
        return family
    refuse_by_name(path)
    folders = [folder for folder in sorted(path.glob("*/")) if os.access(folder, os.R_OK | os.X_OK)]
    if inside := [str(folder) for folder in folders if _family_of(folder)]:
        others = f", or another of {len(inside)}" if inside[1:] else ""
        raise UserError(
            "this is a folder of checkpoints, not one of them", where=path, fix=f"give {inside[-1]}{others}"
        )
    for folder in folders:
        refuse_by_name(folder)
    if (path / CONFIG_FILE).is_file():
        require_file(path / CONFIG_FILE)  # raises for a Git LFS pointer
    layouts = "; ".join(f"{name}: {get_family(name).layout}" for name in FAMILIES)
    keys = keys_of(path)
    what = f"this is not a checkpoint of a known family{f': its first key is {quoted(keys[0])}' if keys else ''}"
    raise UserError(what, where=path, fix=f"give one of these: {layouts}")


def _family_of(path: Path) -> Family | None:
    return next((family for family in map(get_family, FAMILIES) if family.detect(path)), None)


def load_checkpoint(sources: Sources, name: str | None = None) -> Checkpoint:
    """Load a checkpoint of the family called `name`; by default the family is detected. Raises UserError for an option that the family
    does not take, and as Family.load does."""
    family = get_family(name) if name else detect(sources.ckpt)
    if name and not family.detect(sources.ckpt):
        if other := _family_of(sources.ckpt):
            what = f"this is a checkpoint of {other.name}, the bundle's is of {family.name}"
            raise UserError(what, where=sources.ckpt, fix=f"pass a checkpoint of {family.name}, as the bundle's own")
        refuse_by_name(sources.ckpt)
    require_taken(sources, family)
    return family.load(sources)


def require_taken(sources: Sources, family: Family) -> None:
    """Raise UserError for an option that the family does not take."""
    for field in fields(sources):
        if getattr(sources, field.name) is not None and field.name not in ("ckpt", "shapes", *family.takes):
            option = f"--{field.name.replace('_', '-')}"
            raise UserError(
                f"a {family.name} checkpoint does not take {option}", where=option, fix=f"leave {option} out"
            )
