"""The checkpoint's own tokenizer: a sentencepiece model such as Meta LLaMA's `tokenizer.model`."""

import reprlib
from collections.abc import Sequence
from pathlib import Path

from ...bundle.manifest import TOKENIZER_FILES
from ...core.errors import UserError
from ...system.files import require_file
from ...system.packages import install_command

HALF = "\ufffd"  # what an incomplete character is decoded to


def find_tokenizer(folder: Path) -> tuple[Path, ...]:
    """The tokenizer's files in a folder, empty if there are none."""
    return tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


class Tokenizer:
    """Text to token ids and back. `bos` and `eos` are the ids of the start and the end token."""

    def __init__(self, files: Sequence[Path], vocabulary: int):
        """files: as in Checkpoint.tokenizer. Raises UserError unless the file is a sentencepiece model with a start and an end token
        and at most `vocabulary` tokens."""
        (path,) = files
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            fix = f"give token ids as npz, or {install_command('', 'sentencepiece')}"
            raise UserError("sentencepiece is not installed", where=path, fix=fix) from None
        try:
            self._model = SentencePieceProcessor(model_proto=require_file(path).read_bytes())
            self._model.id_to_piece(list(range(self._model.vocab_size())))  # every token is text
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"the tokenizer is not a sentencepiece model ({' '.join(str(error).split())[:100]})",
                where=path,
                fix="copy the checkpoint's tokenizer.model again",
            ) from None
        self.size = self._model.vocab_size()
        self.bos, self.eos = self._model.bos_id(), self._model.eos_id()
        if min(self.bos, self.eos) < 0 or self.size > vocabulary:
            too_large = f"the tokenizer has {self.size} tokens, but the model {vocabulary}"
            what = too_large if self.size > vocabulary else "the tokenizer has no start or no end token"
            raise UserError(what, where=path, fix="put the model's own tokenizer.model there")

    def encode(self, text: str) -> list[int]:
        """Ids without a start or an end token. Raises UserError for invalid Unicode."""
        try:
            return self._model.encode(text)
        except RuntimeError:  # half of a surrogate pair
            what = f"{reprlib.repr(text)} is not valid Unicode text"
            raise UserError(what, where="text", fix="decode it with its own encoding first") from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text; start and end tokens, and ids that only pad the model's vocabulary, decode to nothing."""
        return self._model.decode([token for token in ids if token < self.size])


class TextStream:
    """Decodes a growing text token by token; an incomplete character waits for its remaining bytes."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()):
        """before: tokens whose text was already shown"""
        self._tokenizer, self._ids = tokenizer, list(before)
        self._shown = tokenizer.decode(before).rstrip(HALF)

    def push(self, token: int, last: bool) -> str:
        """The text that this token completes; with `last`, all that is left."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(HALF) and not last:
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new
