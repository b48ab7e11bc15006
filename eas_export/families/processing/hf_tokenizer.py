"""The tokenizer of a Hugging Face folder with a tokenizer.model: the ids of AutoTokenizer of transformers 5, without its code.

A text is split at control pieces and added tokens, and sentencepiece reads what lies between them. Where tokenizer_config.json names
LlamaTokenizer, transformers takes nothing but the pieces: merges rank by id, texts are not normalized, unknown characters vanish.
One thing is as in the transformers that LLaVA was trained with: there a text that begins with a space gets its prefix before that space.
"""

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import UserError
from .added_tokens import COPY, NAMES, AddedToken, Named, Settings, Splitter, read_settings
from .tokenizer import Tokenizer, damaged

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

SPACE = "\u2581"  # a space in pieces
BPE = 2  # a type of models
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of pieces
LLAMA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

Numbered = dict[str, tuple[int, AddedToken]]


class HuggingFaceTokenizer(Tokenizer):
    """The ids of `bos_token` and `eos_token`; `ends` also has the eos_token_id of generation_config.json or config.json."""

    def __init__(self, files: Sequence[Path], vocabulary: int):
        """files: as in Checkpoint.tokenizer. Raises UserError as Tokenizer does, for files that are damaged or contradict each other."""
        super().__init__(files, vocabulary)
        from google.protobuf.message import DecodeError
        from sentencepiece import SentencePieceProcessor
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        settings, folder = read_settings({path.name: path for path in files}), files[0].parent
        try:
            proto = ModelProto.FromString(files[0].read_bytes())
            named = _named(proto, settings)
            tokens = _tokens(proto, settings, named)
            pieces = {piece.piece: number for number, piece in enumerate(proto.pieces)}
            unread = {number: p.piece for number, p in enumerate(proto.pieces) if p.type in (UNKNOWN, CONTROL)}
            self._prefix = settings.add_prefix_space if settings.llama else proto.normalizer_spec.add_dummy_prefix
            proto.normalizer_spec.add_dummy_prefix = False
            self._normalizer = None if settings.llama else SentencePieceProcessor(model_proto=proto.SerializeToString())
            _take_literally(proto, settings.llama)
            self._model = SentencePieceProcessor(model_proto=proto.SerializeToString())
        except (RuntimeError, ValueError, DecodeError) as error:
            raise damaged(files[0], error) from None
        self._legacy, self._doubles = settings.legacy, settings.llama
        self._known = frozenset(pieces) if settings.llama and not proto.trainer_spec.byte_fallback else None
        numbered = _number(tokens, pieces, folder)
        special = {token.content for token, _ in tokens if token.special}
        self._texts = unread | {number: "" if text in special else text for text, (number, _) in numbered.items()}
        kept = special if settings.keep_special else ()
        self._raw = Splitter({text: found for text, found in numbered.items() if not found[1].normalized}, kept)
        rest = {self._normalize(text): found for text, found in numbered.items() if found[1].normalized}
        self._normalized = Splitter({text: found for text, found in rest.items() if text}, kept)
        self.bos, self.eos = (_id(named, name, numbered, folder) for name in ("bos_token", "eos_token"))
        self.ends = tuple(dict.fromkeys((self.eos, *settings.ends)))

    def _encode(self, text: str) -> list[int]:
        return [number for part in self._raw.split(text) for number in self._encode_part(*part)]

    def _encode_part(self, begin: int, text: str, number: int | None) -> Iterator[int]:
        if number is not None:
            yield number
            return
        for place, between, number in self._normalized.split(self._normalize(text)):
            if number is not None:
                yield number
                continue
            between = between.replace(" ", SPACE)
            first = begin == place == 0
            if (
                self._prefix
                and (first or self._legacy)
                and ((self._doubles and first) or not between.startswith(SPACE))
            ):
                between = SPACE + between
            if self._known is not None:
                between = "".join(character for character in between if character in self._known)
            yield from self._model.encode(between)

    def _normalize(self, text: str) -> str:
        """As tokenizer.model says. A text that begins with a space keeps it beside the prefix if every text between tokens has one."""
        if self._normalizer is None:
            return text
        text = self._normalizer.normalize(text)
        return SPACE + text if self._prefix and self._legacy and text.startswith(SPACE) else text

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special tokens, and ids that only pad the model's vocabulary, decode to nothing, other added tokens to their text."""
        shown = [number for number in ids if self._texts.get(number, number < self.size)]
        text = ""
        for own, group in groupby(shown, self._texts.get):
            numbers = list(group)
            text += self._model.decode(numbers) if own is None else own.replace(SPACE, " ") * len(numbers)
        return text.removeprefix(" ") if self._prefix else text


def _take_literally(proto: "ModelProto", llama: bool) -> None:
    """Change the model to read normalized text that has its prefix; for LlamaTokenizer, with merges in the order of the ids."""
    spec = type(proto.normalizer_spec)
    proto.normalizer_spec.CopyFrom(spec(add_dummy_prefix=False, remove_extra_whitespaces=False))
    if llama:
        proto.trainer_spec.model_type = BPE
        for number, piece in enumerate(proto.pieces):
            piece.score = -number
            piece.type = NORMAL if piece.type == USER_DEFINED else piece.type


def _token(value: Named) -> AddedToken:
    return AddedToken(content=value, special=True) if isinstance(value, str) else value


def _named(proto: "ModelProto", settings: Settings) -> dict[str, Named | None]:
    """Name -> token, in the order of NAMES."""
    spec, names = proto.trainer_spec, LLAMA_NAMES
    if not settings.llama:
        own = ((spec.bos_id, spec.bos_piece), (spec.eos_id, spec.eos_piece), (spec.unk_id, spec.unk_piece))
        names = {name: piece or LLAMA_NAMES[name] for name, (number, piece) in zip(LLAMA_NAMES, own) if number >= 0}
    named = names | settings.named
    return {name: named[name] for name in dict.fromkeys((*NAMES, *named)) if name in named}


def _id(named: Mapping[str, Named | None], name: str, numbered: Numbered, folder: Path) -> int:
    if not (token := named.get(name)):
        raise UserError(f"the tokenizer has no {name}", where=folder, fix=COPY)
    return numbered[_token(token).content][0]


def _tokens(
    proto: "ModelProto", settings: Settings, named: Mapping[str, Named | None]
) -> list[tuple[AddedToken, int | None]]:
    """The tokens that texts are split at, each with the id that a file declares for it, in the order in which they get their ids. Of two
    with the same content, the last one counts."""
    # Without LlamaTokenizer they are found before any text is given its prefix
    raw = {} if settings.llama or not proto.normalizer_spec.add_dummy_prefix else {"normalized": False}
    declared = [(token.model_copy(update=raw), number) for number, token in settings.declared]
    extra = settings.extra
    if extra is None:
        split = (CONTROL, USER_DEFINED) if settings.llama else (CONTROL,)
        own = [piece for piece in proto.pieces if piece.type in split]
        extra = [AddedToken(content=p.piece, normalized=False, special=p.type == CONTROL) for p in own]
    undeclared = [_token(value) for value in (*named.values(), *extra) if value]
    known = {token.content for token, _ in declared}
    names = {_token(value).content for value in named.values() if value}
    tokens = [*declared, *((token, None) for token in undeclared if token.content not in known)]
    return [(t.model_copy(update={"special": t.special or t.content in names}), number) for t, number in tokens]


def _number(tokens: Sequence[tuple[AddedToken, int | None]], pieces: Mapping[str, int], folder: Path) -> Numbered:
    """Content -> id and token. A token that is no piece gets the next id after the pieces. Raises UserError where a file declares another
    id. An id may lie outside the model's vocabulary, as a pad token's often does: a prompt with it is refused."""
    numbered: Numbered = {}
    following = len(pieces)
    for token, declared in tokens:
        number = numbered[token.content][0] if token.content in numbered else pieces.get(token.content, following)
        following += number == following
        declared = number if declared is None else declared
        if declared != number:
            what = f"token {reprlib.repr(token.content)} has id {reprlib.repr(declared)}, expected {number}"
            raise UserError(what, where=folder, fix=COPY)
        numbered[token.content] = number, token
    return numbered
