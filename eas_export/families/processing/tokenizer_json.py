"""tokenizer.json, the file of the tokenizers library, which reads it.

Format: {"model": {"type": "BPE", "vocab": {piece: id}, "merges": [[left, right] or "left right"]}, "added_tokens": [AddedToken with its id],
"normalizer", "pre_tokenizer", "post_processor" and "decoder"}
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ...checkpoint.hugging_face import HfRecord
from ...checkpoint.json_file import read_json
from ...core.errors import UserError
from ...system.packages import install_command
from .added_tokens import COPY, AddedToken

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "\u2581"  # a space in pieces
INTERNAL = "\ufdd0"  # no character, in no text
PANIC = (
    "PanicException"  # the library's, for what it does not expect in a file; no Exception, and importable from nowhere
)

Merges = Iterable[tuple[str, str]]


class _Model(HfRecord):
    type: str | None = None
    vocab: Any = None
    merges: list[tuple[str, str] | str] = Field(default=[])


class _NumberedToken(AddedToken):
    id: int


class TokenizerJson(HfRecord):
    """The parts of the file that are read beside the library."""

    model: _Model
    added_tokens: list[_NumberedToken] = Field(default=[])
    pre_tokenizer: Any = None
    decoder: Any = None

    @property
    def is_byte_level(self) -> bool:
        """Whether its pieces are bytes, as GPT-2's and RoBERTa's."""
        return "ByteLevel" in f"{self.pre_tokenizer} {self.decoder}"

    def llama(self, path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """The vocabulary and the merges of a tokenizer like LLaMA's. Raises UserError for one of another kind."""
        if self.model.type not in (None, "BPE") or not isinstance(self.model.vocab, dict) or self.is_byte_level:
            kind = "bytes" if self.is_byte_level else self.model.type
            what = f"the tokenizer's pieces are those of another kind of model ({kind}), not LLaMA's BPE"
            raise UserError(what, where=path, fix=COPY)
        return self.model.vocab, [(*m.partition(" ")[::2],) if isinstance(m, str) else m for m in self.model.merges]


def read_tokenizer_json(path: Path) -> tuple[TokenizerJson, "Tokenizer"]:
    """The file's parts, and the tokenizer that the library makes of it as it is. Raises UserError for a damaged file."""
    parts = read_json(path, TokenizerJson, "a tokenizer.json", COPY)
    with reading(path) as library:
        whole = library.Tokenizer.from_str(path.read_text("utf-8"))
        whole.no_truncation()
        whole.no_padding()
        return parts, whole


@contextmanager
def reading(path: Path) -> Iterator[ModuleType]:
    """The tokenizers library, while it works with a file. Raises UserError where it fails, or is not installed."""
    try:
        import tokenizers
    except ImportError:
        fix = f"give token ids as npz, or {install_command('', 'tokenizers')}"
        raise UserError("tokenizers is not installed", where=path, fix=fix) from None
    try:
        yield tokenizers
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"the tokenizers library cannot use the file ({reason})", where=path, fix=COPY) from None


def merges_of(pieces: Iterable[str], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces in `vocab` that makes one of `pieces`, which come in the order in which they are merged."""
    return [
        (piece[:i], piece[i:])
        for piece in pieces
        for i in range(1, len(piece))
        if piece[:i] in vocab and piece[i:] in vocab
    ]


def llama_tokenizer(vocab: Mapping[str, int], merges: Merges, prefix: str, unk_token: str | None = None) -> "Tokenizer":
    """LLaMA's tokenizer without added tokens: pairs merge in their order, unknown characters are bytes, or else unk_token, which
    decodes to sentencepiece's text for it, or vanish.

    prefix  which texts between added tokens begin with a space: always, first or never
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    model = models.BPE(dict(vocab), list(merges), unk_token=unk_token, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=prefix, split=False)
    strip = [] if prefix == "never" else [decoders.Strip(" ", left=1)]
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    if unk_token:  # the space before it is not stripped
        steps = [decoders.Replace(unk_token, f"{INTERNAL}\u2047 "), *steps, decoders.Replace(INTERNAL, " ")]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


class LibraryModel:
    """A tokenizer of the library with sentencepiece's methods. Raises UserError where it fails.

    doubles  a text that begins with a space gets its prefix before that space, as from sentencepiece
    """

    def __init__(self, path: Path, tokenizer: "Tokenizer", doubles: bool = False):
        self._path, self._tokenizer, self._doubles = path, tokenizer, doubles

    def vocab_size(self) -> int:
        """Without added tokens."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    def id_to_piece(self, token: int) -> str:
        return self._tokenizer.id_to_token(token)

    def encode(self, text: str) -> list[int]:
        text = " " + text if self._doubles and text.startswith((" ", SPACE)) else text
        with reading(self._path):
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special tokens and unknown ids decode to nothing."""
        with reading(self._path):
            return self._tokenizer.decode(ids, skip_special_tokens=True)
