"""The checkpoint's own tokenizer: a sentencepiece model, as Meta's LLaMA has it (`tokenizer.model`)."""

from pathlib import Path

from .errors import UserError
from .files import require_file

FILE = "tokenizer.model"


class Tokenizer:
    """Text to token ids and back. `bos` and `eos` are the ids of the first and the end token."""

    def __init__(self, path: Path):
        """Raises UserError where the file is missing or no sentencepiece model with those two tokens."""
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
        self.bos, self.eos, self.size = self._model.bos_id(), self._model.eos_id(), self._model.vocab_size()
        if min(self.bos, self.eos) < 0:
            raise UserError("it has no first or no end token", where=path, fix="give the model's own tokenizer.model")

    def encode(self, text: str) -> list[int]:
        """Ids without a first or an end token."""
        return self._model.encode(text)

    def decode(self, ids: list[int]) -> str:
        """The text; first and end tokens are silent."""
        return self._model.decode(ids)
