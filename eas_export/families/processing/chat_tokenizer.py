"""The tokenizer of a text model of Hugging Face, with its chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from ...checkpoint.hf_files import GENERATION_CONFIG, TOKENIZER_JSON
from ...core.errors import UserError
from .chat_template import ChatTemplate, find_template
from .hf_tokenizer import HuggingFaceTokenizer

NO_TEMPLATE = "there is no chat template: a question is read as it is, and a later one follows the answer's end"


class ChatTokenizer(HuggingFaceTokenizer):
    """Of both files tokenizer.json is read, as by transformers 5. A model may have no start token, and its end tokens from the config alone."""

    required: ClassVar[tuple[str, ...]] = ()
    doubles: ClassVar[bool] = False

    def __init__(self, files: Sequence[Path], vocabulary: int):
        super().__init__(sorted(files, key=lambda path: path.name != TOKENIZER_JSON), vocabulary)

    def _open(self, files: Mapping[str, Path], path: Path) -> None:
        super()._open(files, path)
        if not self.ends:
            what = f"no file says what ends an answer: neither eos_token of the tokenizer nor eos_token_id of {GENERATION_CONFIG}"
            raise UserError(what, where=path.parent, fix="write eos_token into tokenizer_config.json")
        if found := find_template(files, self.templates):
            self.chat = ChatTemplate(*found, self.special)

    def notes(self) -> tuple[str, ...]:
        return (*super().notes(), *self.chat_notes())

    def chat_notes(self) -> tuple[str, ...]:
        return self.chat.notes() if self.chat else (NO_TEMPLATE,)
