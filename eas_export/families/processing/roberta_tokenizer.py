"""RoBERTa's tokenizer: byte-level BPE from tokenizer.json, or from vocab.json and merges.txt, with the ids of transformers' RobertaTokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field, RootModel

from ...checkpoint.hf_files import MERGES, VOCAB
from ...checkpoint.json_file import read_json
from ...core.errors import UserError
from ...networks.cross_encoder.text_encoder import PADDING
from .added_tokens import COPY
from .tokenizer import require_unicode
from .tokenizer_json import read_tokenizer_json, reading

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BEGIN, PAD, END, UNKNOWN, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"


class _Vocab(RootModel[dict[str, Annotated[int, Field(ge=0, lt=1 << 31)]]]):
    model_config = ConfigDict(frozen=True, strict=True)


class RobertaTokenizer:
    """A text is framed by <s> and </s>, cut to a length and filled up with <pad>."""

    def __init__(self, files: Sequence[Path], vocabulary: int):
        """files: as in Checkpoint.tokenizer. Raises UserError unless they are a tokenizer with RoBERTa's special tokens, padding with id 1,
        and at most `vocabulary` tokens."""
        path = files[0]
        self._model = _from_lists(path, files) if path.name == VOCAB else read_tokenizer_json(path)[1]
        ids = {name: self._model.token_to_id(name) for name in (BEGIN, PAD, END)}
        if None in ids.values() or ids[PAD] != PADDING:
            named = ", ".join(f"{name} is {'missing' if number is None else number}" for name, number in ids.items())
            what = f"the tokenizer is not RoBERTa's: {named}, expected {PAD} {PADDING}"
            raise UserError(what, where=path, fix="give the tokenizer of roberta-base")
        self._begin, self._end = ids[BEGIN], ids[END]
        largest = max(self._model.get_vocab(with_added_tokens=True).values())
        if largest >= vocabulary:
            what = f"the tokenizer has {largest + 1} tokens, but the model {vocabulary}"
            raise UserError(what, where=path, fix="give the model's own tokenizer")

    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""
        return ()

    def encode(self, text: str, length: int) -> tuple[list[int], list[int]]:
        """`length` ids, and 1 for those that are not filled up. Raises UserError for invalid Unicode."""
        ids = [self._begin, *self._inner(text)[: length - 2], self._end]
        rest = length - len(ids)
        return ids + [PADDING] * rest, [1] * len(ids) + [0] * rest

    def length(self, text: str) -> int:
        """Tokens of the whole text with its frame. Raises UserError for invalid Unicode."""
        return 2 + len(self._inner(text))

    def _inner(self, text: str) -> list[int]:
        require_unicode(text)
        return self._model.encode(text, add_special_tokens=False).ids


def _from_lists(path: Path, files: Sequence[Path]) -> "Tokenizer":
    """The tokenizer of vocab.json and merges.txt. Raises UserError where the latter is missing, and for damaged files."""
    merges = {each.name: each for each in files}.get(MERGES)
    if merges is None:
        what = f"{path.name} has no {MERGES} beside it"
        raise UserError(what, where=path, fix=f"put RoBERTa's {MERGES} there, too")
    vocab = read_json(path, _Vocab, "an object of tokens and their ids", COPY).root
    with reading(merges) as library:
        lines = [line for line in merges.read_text("utf-8").split("\n") if line and not line.startswith("#version")]
        model = library.Tokenizer(library.models.BPE(vocab=vocab, merges=[tuple(line.split(" ")) for line in lines]))
        model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.add_special_tokens([BEGIN, PAD, END, UNKNOWN, MASK])
        return model
