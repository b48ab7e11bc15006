"""WHO: the model families. To add one, write its file with a Family in it and add its row here."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.hf_files import CONFIG_FILE, TOKENIZERS
from ..checkpoint.layouts import refuse_part
from ..checkpoint.state_dict import first_key
from ..core.configs.decoder import ModelConfig
from ..core.errors import UserError
from ..core.registry import lookup
from ..system.files import require_file
from .contract import Family, Sources
from .processing.tokenizer import Tokenizer

FAMILIES = {
    "lavin": ".families.lavin:LAVIN",
    "llava": ".families.llava:LLAVA",
    "meter": ".families.meter:METER",
}

NO_TOKENIZER = (
    "there is no tokenizer, so that `run` takes arrays of token ids and no text: "
    f"put {' or '.join(TOKENIZERS)} into the checkpoint, or pass --tokenizer PATH"
)


def get_family(name: str) -> Family:
    return lookup(FAMILIES, name, "model family", "manifest")


def make_tokenizer(files: Sequence[Path], config: ModelConfig) -> Tokenizer:
    """The tokenizer of a model that generates text, from its files (Checkpoint.tokenizer). Raises UserError where they are another
    model's or damaged."""
    return get_family(config.family).prompts.tokenizer(files, config.vocab_size)


def tokenizer_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What the user should know about the tokenizer of a model that generates text, a sentence each. Raises UserError as make_tokenizer
    does: the files are copied as they are."""
    if get_family(checkpoint.config.family).prompts is None:
        return ()
    if checkpoint.tokenizer:
        return make_tokenizer(checkpoint.tokenizer, checkpoint.config).notes()
    return (NO_TOKENIZER,)


def detect(path: Path) -> Family:
    """The family of the checkpoint at `path`. Raises UserError for an unknown layout."""
    if not path.exists():
        raise UserError("there is no such file or folder", where=path, fix="check the path")
    for name in FAMILIES:
        family = get_family(name)
        if family.detect(path):
            return family
    refuse_part(path)
    if (path / CONFIG_FILE).is_file():
        require_file(path / CONFIG_FILE)  # raises for a Git LFS pointer
    layouts = "; ".join(f"{name}: {get_family(name).layout}" for name in FAMILIES)
    key = first_key(path)
    what = f"this is not a checkpoint of a known family{f': its first key is {key}' if key else ''}"
    raise UserError(what, where=path, fix=f"give one of these: {layouts}")


def load_checkpoint(sources: Sources, name: str | None = None) -> Checkpoint:
    """Load a checkpoint of the family called `name`; by default the family is detected. Raises UserError for an option that the family
    does not take, and as Family.load does."""
    family = get_family(name) if name else detect(sources.ckpt)
    for field in fields(sources):
        if getattr(sources, field.name) is not None and field.name not in ("ckpt", *family.takes):
            option = f"--{field.name.replace('_', '-')}"
            raise UserError(
                f"a {family.name} checkpoint does not take {option}", where=option, fix=f"leave {option} out"
            )
    return family.load(sources)
