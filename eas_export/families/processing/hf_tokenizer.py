"""The tokenizer of a Hugging Face folder: the ids of AutoTokenizer of transformers 5, without its code; the tokenizers library does the work.

Where tokenizer_config.json names LlamaTokenizer, transformers takes nothing but pieces and merges from tokenizer.model or tokenizer.json:
merges rank by id, texts are not normalized, unknown characters vanish. Otherwise the file decides. Of both files tokenizer.model is read,
as by the slow tokenizer that LLaVA was trained with; transformers 5 would read tokenizer.json.
One thing is as in the transformers that LLaVA was trained with: there a text that begins with a space gets its prefix before that space.
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ...checkpoint.hf_files import SENTENCEPIECE, TOKENIZER_CONFIG
from ...core.errors import UserError
from .added_tokens import COPY, NAMES, AddedToken, Named, Settings, read_settings
from .tokenizer import Tokenizer, open_sentencepiece
from .tokenizer_json import SPACE, LibraryModel, TokenizerJson, llama_tokenizer, merges_of, read_tokenizer_json, reading

if TYPE_CHECKING:
    import tokenizers
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

UNIGRAM = 1  # a type of models
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # types of pieces
LLAMA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class _Base:
    """A tokenizer before the folder's other files add tokens to it.

    names  its special tokens by name, unless a file names others
    extra  its tokens without a name, unless a file lists others
    raw    added tokens are found before any text is normalized
    """

    tokenizer: "tokenizers.Tokenizer"
    names: dict[str, str]
    extra: Sequence[AddedToken] = ()
    raw: bool = False


class HuggingFaceTokenizer(Tokenizer):
    """The ids of `bos_token` and `eos_token`; `ends` also has the eos_token_id of generation_config.json or config.json.

    special   the special tokens' texts by their names
    templates  the chat templates of tokenizer_config.json by name
    """

    required: ClassVar[tuple[str, ...]] = ("bos_token", "eos_token")  # a tokenizer without one is refused
    doubles: ClassVar[bool] = True  # see LibraryModel, where LlamaTokenizer puts a space before a text

    def _open(self, files: Mapping[str, Path], path: Path) -> None:
        """Raises UserError for files that are damaged or contradict each other."""
        if path.name == SENTENCEPIECE:
            parts, whole, settings = None, None, read_settings(files)
        else:
            parts, whole = read_tokenizer_json(path)
            settings = read_settings(files, [(token.id, token) for token in parts.added_tokens])
        llama = settings.llama and not (parts and parts.is_byte_level)
        if parts is None:
            base = _of_sentencepiece(path, settings)
        elif llama:
            base = _Base(_llama(path, *parts.llama(path), settings), LLAMA_NAMES)
        else:
            base = _Base(whole, {} if TOKENIZER_CONFIG in files else _usual_names(parts))
        named = base.names | settings.named
        named = {name: named[name] for name in dict.fromkeys((*NAMES, *named)) if named.get(name)}
        tokenizer = base.tokenizer
        with reading(path):
            _add_tokens(tokenizer, base, settings, named, path.parent)
            tokenizer.encode_special_tokens = settings.keep_special
        self._model = LibraryModel(path, tokenizer, doubles=self.doubles and llama and settings.add_prefix_space)
        self.special = {name: _token(token).content for name, token in named.items() if name in NAMES}
        for name in (name for name in self.required if name not in named):
            why = "" if TOKENIZER_CONFIG in files else f": no {TOKENIZER_CONFIG} names it"
            raise UserError(f"the tokenizer has no {name}{why}", where=path.parent, fix=COPY)
        self.bos, self.eos = (tokenizer.token_to_id(self.special.get(name, "")) for name in ("bos_token", "eos_token"))
        self.ends = tuple(dict.fromkeys(end for end in (self.eos, *settings.ends) if end is not None))
        if whole is not None:
            self.before, self.after = _around(path, whole)
        else:
            self.before = (self.bos,) if settings.adds_bos and self.bos is not None else ()
            self.after = (self.eos,) if settings.adds_eos and self.eos is not None else ()
        self.templates = settings.templates
        self.added = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values())

    def notes(self) -> tuple[str, ...]:
        around = (not self.before, "begin without a start token"), (bool(self.after), "end with an end token")
        said = (f"prompts {how}, as the tokenizer's files say" for unusual, how in around if unusual)
        return (*super().notes(), *said)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special tokens, and ids that only pad the model's vocabulary, decode to nothing, other added tokens to their text."""
        return self._model.decode(ids)


def _usual_names(parts: TokenizerJson) -> dict[str, str]:
    """LLaMA's special tokens, as far as a tokenizer.json without its config declares them."""
    special = {token.content for token in parts.added_tokens if token.special}
    return {name: token for name, token in LLAMA_NAMES.items() if token in special}


def _of_sentencepiece(path: Path, settings: Settings) -> _Base:
    """tokenizer.model, as LlamaTokenizer reads it or as its own settings say. Raises UserError for a damaged file."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    open_sentencepiece(path)
    with reading(path) as library:
        proto = ModelProto.FromString(path.read_bytes())
        vocab = {piece.piece: number for number, piece in enumerate(proto.pieces)}
        if settings.llama:
            own = _pieces(proto, CONTROL, USER_DEFINED)
            return _Base(_llama(path, vocab, merges_of(vocab, vocab), settings), LLAMA_NAMES, own)
        tokenizer = library.Tokenizer(_model(proto, vocab))
        _follow(tokenizer, proto, settings.legacy)
    spec = proto.trainer_spec
    own = ((spec.bos_id, spec.bos_piece), (spec.eos_id, spec.eos_piece), (spec.unk_id, spec.unk_piece))
    names = {name: piece or LLAMA_NAMES[name] for name, (number, piece) in zip(LLAMA_NAMES, own) if number >= 0}
    return _Base(tokenizer, names, _pieces(proto, CONTROL), raw=proto.normalizer_spec.add_dummy_prefix)


def _pieces(proto: "ModelProto", *types: int) -> list[AddedToken]:
    own = [piece for piece in proto.pieces if piece.type in types]
    return [AddedToken(content=piece.piece, normalized=False, special=piece.type == CONTROL) for piece in own]


def _llama(
    path: Path, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], settings: Settings
) -> "tokenizers.Tokenizer":
    prefix = "never" if not settings.add_prefix_space else "always" if settings.legacy else "first"
    with reading(path):
        return llama_tokenizer(vocab, merges, prefix)


def _model(proto: "ModelProto", vocab: Mapping[str, int]) -> "tokenizers.models.Model":
    """Pieces that score higher merge first; user-defined ones are whole from the start (see _follow)."""
    from tokenizers import models

    spec = proto.trainer_spec
    if spec.model_type == UNIGRAM:
        pieces = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(pieces, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    normal = [piece for piece in proto.pieces if piece.type == NORMAL]
    ranked = [piece.piece for piece in sorted(normal, key=lambda piece: -piece.score)]
    whole = any(piece.type == USER_DEFINED for piece in proto.pieces)
    return models.BPE(
        vocab,
        merges_of(ranked, set(ranked)),
        unk_token=spec.unk_piece,
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
        ignore_merges=whole,
    )


def _follow(tokenizer: "tokenizers.Tokenizer", proto: "ModelProto", legacy: bool) -> None:
    """Let the tokenizer treat texts as tokenizer.model says: its characters, spaces, prefix and user-defined pieces."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    spec, prefix = proto.normalizer_spec, proto.normalizer_spec.add_dummy_prefix
    steps = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex("  +"), " ")]
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    if prefix and legacy:  # the prefix below is only for texts without a space
        steps.append(normalizers.Replace(Regex(rf"\A{SPACE}"), SPACE * 2))
    tokenizer.normalizer = normalizers.Sequence(steps)
    parts, shown = [], [decoders.Replace(SPACE, " ")]
    if prefix:
        parts.append(pre_tokenizers.Metaspace(SPACE, prepend_scheme="always" if legacy else "first", split=False))
    if whole := sorted((p.piece for p in proto.pieces if p.type == USER_DEFINED), key=len, reverse=True):
        parts.append(pre_tokenizers.Split(Regex("|".join(map(re.escape, whole))), "isolated"))
    if parts:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    shown += [decoders.ByteFallback()] if proto.trainer_spec.byte_fallback else []
    shown += [decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*shown, decoders.Strip(" ", left=1)] if prefix else shown)


def _add_tokens(
    tokenizer: "tokenizers.Tokenizer", base: _Base, settings: Settings, named: Mapping[str, Named], folder: Path
) -> None:
    """Add the tokens that the files declare, name and list, in this order. A token that is no piece gets the next id. Raises UserError
    where a file declares another id. An id may lie outside the model's vocabulary, as a pad token's often does: a prompt with it is refused."""
    from tokenizers import AddedToken as Added

    own = {repr(token): token.content for token in tokenizer.get_added_tokens_decoder().values()}
    raw = {"normalized": False} if base.raw else {}
    declared = [(number, token.model_copy(update=raw)) for number, token in settings.declared]
    extra = base.extra if settings.extra is None else settings.extra
    known = {*own.values(), *(token.content for _, token in declared)}
    others = [token for token in map(_token, (*named.values(), *extra)) if token.content not in known]
    names = {_token(value).content for value in named.values()}
    added = [
        Added(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
        )
        for token in (*(token for _, token in declared), *others)
    ]
    added = [token for token in added if repr(token) not in own]
    for token in added:
        token.special = token.special or token.content in names
    tokenizer.add_tokens(added)
    for declared_id, token in declared:
        number = tokenizer.token_to_id(token.content)
        if number != declared_id:
            what = f"token {reprlib.repr(token.content)} has id {reprlib.repr(declared_id)}, expected {number}"
            raise UserError(what, where=folder, fix=COPY)


def _token(value: Named) -> AddedToken:
    return AddedToken(content=value, special=True) if isinstance(value, str) else value


def _around(path: Path, tokenizer: "tokenizers.Tokenizer") -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a tokenizer.json puts before a text and behind it: as a rule a start token, or nothing."""
    with reading(path):
        encoded = tokenizer.encode("a")
    special = [*map(bool, encoded.special_tokens_mask), False]
    first, last = special.index(False), special[::-1].index(False, 1) - 1
    return tuple(encoded.ids[:first]), tuple(encoded.ids[len(encoded.ids) - last :])
