"""The checkpoint's own tokenizer: a sentencepiece model such as Meta LLaMA's `tokenizer.model`."""

import reprlib
from collections.abc import Sequence
from pathlib import Path

from ...checkpoint.hf_files import SENTENCEPIECE
from ...core.errors import UserError
from ...system.files import require_file
from ...system.packages import install_command

HALF = "\ufffd"  # what an incomplete character is decoded to


def find_tokenizer(folder: Path, names: Sequence[str] = (SENTENCEPIECE,)) -> tuple[Path, ...]:
    """Those of a tokenizer's files that are in a folder, empty unless the first is."""
    found = tuple(folder / name for name in names if (folder / name).is_file())
    return found if found and found[0].name == names[0] else ()


class Tokenizer:
    """Text to token ids and back with sentencepiece alone, as Meta's code does it: the "</s>" of a text is encoded as letters.

    bos, eos  the ids of the start and the end token
    ends      the ids that end an answer, `eos` first
    size      of the sentencepiece model
    """

    def __init__(self, files: Sequence[Path], vocabulary: int):
        """files: as in Checkpoint.tokenizer. Raises UserError unless the first is a sentencepiece model with a start and an end token
        and at most `vocabulary` tokens."""
        path = files[0]
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            fix = f"give token ids as npz, or {install_command('', 'sentencepiece')}"
            raise UserError("sentencepiece is not installed", where=path, fix=fix) from None
        try:
            self._model = SentencePieceProcessor(model_proto=require_file(path).read_bytes())
            self._model.id_to_piece(list(range(self._model.vocab_size())))  # every token is text
        except (RuntimeError, ValueError, OSError) as error:
            raise damaged(path, error) from None
        self.size = self._model.vocab_size()
        self.bos, self.eos = self._model.bos_id(), self._model.eos_id()
        self.ends = (self.eos,)
        if min(self.bos, self.eos) < 0 or self.size > vocabulary:
            too_large = f"the tokenizer has {self.size} tokens, but the model {vocabulary}"
            what = too_large if self.size > vocabulary else "the tokenizer has no start or no end token"
            raise UserError(what, where=path, fix="put the model's own tokenizer.model there")

    def encode(self, text: str) -> list[int]:
        """Ids without a start or an end token. Raises UserError for invalid Unicode."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair
            what = f"{reprlib.repr(text)} is not valid Unicode text"
            raise UserError(what, where="text", fix="decode it with its own encoding first") from None
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; control tokens, and ids that only pad the model's vocabulary, decode to nothing."""
        return self._model.decode([token for token in ids if token < self.size])


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"the tokenizer is not a sentencepiece model ({' '.join(str(error).split())[:100]})",
        where=path,
        fix="copy the checkpoint's tokenizer.model again",
    )


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
