"""The checkpoint's own tokenizer: Meta LLaMA's `tokenizer.model`, a sentencepiece model, or a `tokenizer.json` made of it."""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...checkpoint.hf_files import TOKENIZER_JSON, TOKENIZERS
from ...core.errors import UserError
from ...system.files import require_file
from ...system.packages import install_command
from .chat_template import ChatTemplate
from .tokenizer_json import LibraryModel, llama_tokenizer, read_tokenizer_json, reading

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

HALF = "\ufffd"  # what an incomplete character is decoded to
PROBES = ("USER: What is it? 1 + 2 = 3. ASSISTANT:", "  a \n\t b", "\u00e9 \u65e5\u672c \U0001f600", "</s><s>")


def find_tokenizer(
    folders: Sequence[Path], given: Path | None, names: Sequence[str] = TOKENIZERS, beside: Sequence[str] = ()
) -> tuple[Path, ...]:
    """A tokenizer's files: those at `given`, or else in the first of the folders that has one; empty without one.

    given   --tokenizer: one of the files, or their folder
    names   of the files that are a tokenizer; of several, the first one is read
    beside  names of files that belong to it

    Raises UserError where `given` is or has none.
    """
    chosen = names
    if given is not None and given.is_file():
        folders, chosen = [given.parent], [name for name in names if name == given.name]
    elif given is not None:
        folders = [given]
    for folder in folders:
        if found := [folder / name for name in chosen if (folder / name).is_file()]:
            return (*found, *(folder / name for name in beside if (folder / name).is_file()))
    if given is None:
        return ()
    what = "no tokenizer is there" if given.exists() else "there is no such file or folder"
    fix = f"give a {' or a '.join(names)}, or its folder"
    if given.is_file():
        what, fix = f"no tokenizer has the name {given.name}", f"name the file {' or '.join(names)}, whichever it is"
    raise UserError(what, where=f"--tokenizer {given}", fix=fix)


class Tokenizer:
    """Text to token ids and back as Meta's code does it: the "</s>" of a text is encoded as letters.

    bos, eos       the ids of the start and the end token; None without one (Hugging Face)
    ends           the ids that end an answer, `eos` first
    before, after  the ids that the tokenizer itself puts before the first text of a prompt, and behind each (LLaVA)
    added          the texts that are tokens
    chat           the model's chat template; None where the family has its own format, and without one
    size           without added tokens
    """

    after: tuple[int, ...] = ()
    added: tuple[str, ...] = ()
    chat: ChatTemplate | None = None

    def __init__(self, files: Sequence[Path], vocabulary: int):
        """files: as in Checkpoint.tokenizer; of two tokenizers, the first is read. Raises UserError unless it is a tokenizer with a start
        and an end token among at most `vocabulary` tokens."""
        self._files, self._vocabulary = tuple(files), vocabulary
        path = files[0]
        self._open({file.name: file for file in files}, path)
        self.size = self._model.vocab_size()
        if self.size > vocabulary:
            what = f"the tokenizer has {self.size} tokens, but the model {vocabulary}"
            raise UserError(what, where=path, fix=f"put the model's own {path.name} there")
        for name, used in (("bos_token", self.before), ("eos_token", self.ends[:1])):
            if used and used[0] >= vocabulary:
                what = f"the {name} is {self.name(used[0])!r} (id {used[0]}), but the model knows {vocabulary} tokens"
                fix = f"name the {name} that the model was trained with in tokenizer_config.json or special_tokens_map.json"
                raise UserError(what, where=path.parent, fix=fix)

    def _open(self, files: Mapping[str, Path], path: Path) -> None:
        """Set the model and the tokens; path: the tokenizer among its files, by name"""
        if path.name == TOKENIZER_JSON:
            self._model, self.bos, self.eos = _open_json(path)
        else:
            self._model = open_sentencepiece(path)
            self.bos, self.eos = self._model.bos_id(), self._model.eos_id()
        if min(self.bos, self.eos) < 0:
            what = "the tokenizer has no start or no end token"
            raise UserError(what, where=path, fix=f"put the model's own {path.name} there")
        self.ends, self.before = (self.eos,), (self.bos,)

    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each: another tokenizer beside this one is not read."""
        path, *others = [path for path in self._files if path.name in TOKENIZERS]
        if not others:
            return ()
        try:
            other = type(self)([file for file in self._files if file != path], self._vocabulary)
            how = self._differs_from(other)
        except UserError as error:
            how = error.what
        said = f"{path.name} is read, not {others[0].name} beside it, which differs: {how} (--tokenizer {others[0]} reads that one)"
        return (said,) if how else ()

    def chat_notes(self) -> tuple[str, ...]:
        """What of it concerns conversations."""
        return ()

    def _differs_from(self, other: "Tokenizer") -> str:
        """The first difference in words, empty without one: sizes, tokens around prompts, and the ids of some texts."""
        for words, ours, theirs in (
            ("vocabularies of", self.size, other.size),
            ("the start token is", self.bos, other.bos),
            ("answers end with", [*self.ends], [*other.ends]),
            ("prompts begin with", [*self.before], [*other.before]),
            ("prompts end with", [*self.after], [*other.after]),
        ):
            if ours != theirs:
                return f"{words} {ours} and {theirs}"
        for text in (*PROBES, *self.added, *other.added):
            if (ids := self.encode(text)) != (theirs := other.encode(text)):
                return f"{text!r} is {reprlib.repr(ids)} and {reprlib.repr(theirs)}"
        return ""

    def encode(self, text: str) -> list[int]:
        """Ids without a start or an end token. Raises UserError for invalid Unicode."""
        require_unicode(text)
        return self._model.encode(text)

    def name(self, token: int) -> str:
        """The text that is this token."""
        return self._model.id_to_piece(token)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; control tokens, and ids that only pad the model's vocabulary, decode to nothing."""
        return self._model.decode([token for token in ids if token < self.size])


def require_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        what = f"{reprlib.repr(text)} is not valid Unicode text"
        raise UserError(what, where="text", fix="decode it with its own encoding first") from None


def open_sentencepiece(path: Path) -> "SentencePieceProcessor":
    """Raises UserError for a damaged file."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        fix = f"give token ids as npz, or {install_command('', 'sentencepiece')}"
        raise UserError("sentencepiece is not installed", where=path, fix=fix) from None
    try:
        model = SentencePieceProcessor(model_proto=require_file(path).read_bytes())
        model.id_to_piece(list(range(model.vocab_size())))  # every token is text
    except (RuntimeError, ValueError, OSError) as error:
        what = f"the tokenizer is not a sentencepiece model ({' '.join(str(error).split())[:100]})"
        raise UserError(what, where=path, fix="copy the checkpoint's tokenizer.model again") from None
    return model


def _open_json(path: Path) -> tuple[LibraryModel, int, int]:
    """LLaMA's tokenizer.json read as sentencepiece reads tokenizer.model; the start and the end token, -1 without one."""
    parts, _ = read_tokenizer_json(path)
    vocab, merges = parts.llama(path)
    control = ("<s>", "</s>")
    with reading(path):
        tokenizer = llama_tokenizer(vocab, [m for m in merges if "".join(m) not in control], "first", unk_token="<unk>")
        tokenizer.add_special_tokens([token for token in control if token in vocab])
        tokenizer.encode_special_tokens = True  # as letters
    return LibraryModel(path, tokenizer, doubles=True), *(vocab.get(token, -1) for token in control)


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
