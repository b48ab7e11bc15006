"""The checkpoint's own tokenizer: a sentencepiece model, as Meta's LLaMA has it (`tokenizer.model`)."""

import reprlib
from collections.abc import Sequence
from pathlib import Path

from ...bundle.manifest import TOKENIZER_FILES
from ...core.errors import UserError
from ...system.files import require_file

HALF = "\ufffd"  # what half of a character is decoded to


def find_tokenizer(folder: Path) -> tuple[Path, ...]:
    """The tokenizer's files in a folder, none where it has none."""
    return tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


class Tokenizer:
    """Text to token ids and back. `bos` and `eos` are the ids of the first and the end token."""

    def __init__(self, files: Sequence[Path], vocabulary: int):
        """files: of the tokenizer, as Checkpoint.tokenizer has them. Raises UserError where the file is no sentencepiece model with those two tokens and at most `vocabulary` tokens."""
        (path,) = files
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise UserError(
                "sentencepiece is not installed", where=path, fix="pip install sentencepiece, or give token ids as npz"
            ) from None
        try:
            self._model = SentencePieceProcessor(model_proto=require_file(path).read_bytes())
            self._model.id_to_piece(list(range(self._model.vocab_size())))  # every token is text
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"it is not a sentencepiece model ({' '.join(str(error).split())[:100]})",
                where=path,
                fix="copy the checkpoint's tokenizer.model again",
            ) from None
        self.size = self._model.vocab_size()
        self.bos, self.eos = self._model.bos_id(), self._model.eos_id()
        if min(self.bos, self.eos) < 0 or self.size > vocabulary:
            few = f"it has {self.size} tokens, the model {vocabulary}"
            what = few if self.size > vocabulary else "it has no first or no end token"
            raise UserError(what, where=path, fix="put the model's own tokenizer.model there")

    def encode(self, text: str) -> list[int]:
        """Ids without a first or an end token. Raises UserError for text that is none."""
        try:
            return self._model.encode(text)
        except RuntimeError:  # half of a surrogate pair
            what = f"{reprlib.repr(text)} is not valid Unicode text"
            raise UserError(what, where="text", fix="decode it before, with its own encoding") from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text; first and end tokens, and ids that only pad the model's vocabulary, are silent."""
        return self._model.decode([token for token in ids if token < self.size])


class TextStream:
    """Text as it grows, token by token; half of a character waits for its other half."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()):
        """before: tokens whose text was shown already"""
        self._tokenizer, self._ids = tokenizer, list(before)
        self._shown = tokenizer.decode(before).rstrip(HALF)

    def push(self, token: int, last: bool) -> str:
        """The text that this token completes; all that is left where it is the last."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(HALF) and not last:
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new
