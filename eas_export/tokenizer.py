"""The checkpoint's own tokenizer: a sentencepiece model, as Meta's LLaMA has it (`tokenizer.model`)."""

from pathlib import Path

from .errors import UserError
from .files import require_file

FILE = "tokenizer.model"


class Tokenizer:
    """Text to token ids and back. `bos` and `eos` are the ids of the first and the end token."""

    def __init__(self, path: Path, vocabulary: int):
        """Raises UserError where the file is no sentencepiece model with those two tokens and at most `vocabulary` tokens."""
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise UserError(
                "sentencepiece is not installed", where=path, fix="pip install sentencepiece, or give token ids as npz"
            ) from None
        try:
            self._model = SentencePieceProcessor(model_proto=require_file(path).read_bytes())
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"it is not a sentencepiece model ({' '.join(str(error).split())[:100]})",
                where=path,
                fix="copy the checkpoint's tokenizer.model again",
            ) from None
        self.bos, self.eos, size = self._model.bos_id(), self._model.eos_id(), self._model.vocab_size()
        if min(self.bos, self.eos) < 0 or size > vocabulary:
            what = (
                f"it has {size} tokens, the model {vocabulary}"
                if size > vocabulary
                else "it has no first or no end token"
            )
            raise UserError(what, where=path, fix="put the model's own tokenizer.model there")

    def encode(self, text: str) -> list[int]:
        """Ids without a first or an end token."""
        return self._model.encode(text)

    def decode(self, ids: list[int]) -> str:
        """The text; first and end tokens are silent."""
        return self._model.decode(ids)
