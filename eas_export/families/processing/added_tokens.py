"""The tokens that a text is split at, and the files of a Hugging Face folder that name them.

Formats, as transformers 5 reads them:
- tokenizer_config.json: tokenizer_class, legacy, add_prefix_space, split_special_tokens, tokens by name (eos_token), more of them in
  extra_special_tokens (once additional_special_tokens), added_tokens_decoder = {"id": AddedToken}. A token is a text or an AddedToken
- special_tokens_map.json: tokens by name; added_tokens.json: {text: id}. Both count only without an added_tokens_decoder
- chat_template: see families/processing/chat_template.py
- generation_config.json, or else config.json: eos_token_id, one or a list
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from ...checkpoint.hf_files import ADDED_TOKENS, CONFIG_FILE, GENERATION_CONFIG, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from ...checkpoint.hugging_face import HfRecord
from ...checkpoint.json_file import read_json

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LLAMA = "LlamaTokenizer"
# Model types whose tokenizers transformers reads as the files are, even where they name LlamaTokenizer
AS_THE_FILE_SAYS = {"granite", "llava", "ministral", "mistral", "phi3", "qwen2"}
COPY = "copy the tokenizer's files again from the model's own folder"
Content = Annotated[str, Field(min_length=1, max_length=256)]
R = TypeVar("R", bound=BaseModel)


class _Strict(HfRecord):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class AddedToken(_Strict):
    """A token that is found in the text itself.

    lstrip, rstrip  takes the whitespace on that side with it
    single_word     counts only where no letter or digit touches it
    normalized      is looked for after the others, in normalized text
    special         decodes to nothing
    """

    content: Content
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool
    special: bool = False

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        return {"normalized": not value.get("special"), **value} if isinstance(value, dict) else value


Named = Content | AddedToken


class _Tokens(_Strict):
    """The tokens of tokenizer_config.json or special_tokens_map.json; named: name -> token."""

    named: dict[str, Named | None] = Field(default={})
    extra_special_tokens: list[Named] | dict[str, Named] | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        more = {k: v for k, v in values.items() if k.endswith("_token") and isinstance(v, str | dict)}
        return {**values, "named": {key: values[key] for key in NAMES if key in values} | more}


class _NamedTemplate(_Strict):
    name: str
    template: str


class _TokenizerConfig(_Tokens):
    tokenizer_class: str | None = None
    legacy: bool | None = None
    add_prefix_space: bool | None = None
    split_special_tokens: bool = False
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    additional_special_tokens: list[Named] | dict[str, Named] | None = None
    chat_template: str | list[_NamedTemplate] | None = None
    added_tokens_decoder: dict[Annotated[int, Field(strict=False)], AddedToken] = Field(default={})

    @property
    def templates(self) -> dict[str, str]:
        if isinstance(self.chat_template, str):
            return {"default": self.chat_template}
        return {each.name: each.template for each in self.chat_template or ()}

    @property
    def extra(self) -> list[Named] | dict[str, Named] | None:
        given = not self.model_fields_set.isdisjoint(("extra_special_tokens", "additional_special_tokens"))
        return self.extra_special_tokens or self.additional_special_tokens or ([] if given else None)


class _SpecialTokensMap(_Tokens):
    @model_validator(mode="before")
    @classmethod
    def _are_special(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: {**value, "special": True} if isinstance(value, dict) and key != "extra_special_tokens" else value
            for key, value in values.items()
        }


class _AddedTokens(RootModel[dict[Content, int]]):
    model_config = ConfigDict(frozen=True, strict=True)


class _ModelConfig(_Strict):
    """config.json or generation_config.json."""

    model_type: str | None = None
    tokenizer_class: str | None = None
    eos_token_id: int | list[int] | None = None


@dataclass(frozen=True)
class Settings:
    """What a folder's files say about its tokenizer.

    llama             transformers reads tokenizer.model with its LlamaTokenizer; else as the file itself says
    legacy            the text after an added token begins with a space, too
    add_prefix_space  a text begins with a space (LlamaTokenizer)
    keep_special      special tokens in a text are text (split_special_tokens)
    declared          tokens with their ids, ascending
    named, extra      special tokens, by name and without one; extra None: the tokenizer's own
    ends              eos_token_id
    adds_bos, adds_eos  begin prompts with a start token, end texts with an end token; True and False in the transformers that LLaVA was
                      trained with, where no file says it
    templates         the chat templates of tokenizer_config.json by name; one alone is "default"
    """

    llama: bool
    legacy: bool
    add_prefix_space: bool
    keep_special: bool
    declared: list[tuple[int, AddedToken]]
    named: dict[str, Named | None]
    extra: list[Named] | None
    ends: list[int]
    adds_bos: bool
    adds_eos: bool
    templates: dict[str, str]


def read_settings(files: Mapping[str, Path], own: Sequence[tuple[int, AddedToken]] = ()) -> Settings:
    """files: by their names; own: the added tokens of a tokenizer.json. Raises UserError for a file that is not what its name says."""

    def read(name: str, record: type[R], kind: str) -> R:
        return read_json(files[name], record, kind, COPY) if name in files else record.model_validate({})

    config = read(TOKENIZER_CONFIG, _TokenizerConfig, "the config of a tokenizer")
    model = read(CONFIG_FILE, _ModelConfig, "the config of a model")
    kind = (config.tokenizer_class or model.tokenizer_class or "").removesuffix("Fast")
    llama = kind == LLAMA and model.model_type not in AS_THE_FILE_SAYS
    named, extra = dict(config.named), config.extra
    declared = [*config.added_tokens_decoder.items()]
    if "added_tokens_decoder" not in config.model_fields_set:
        special = read(SPECIAL_TOKENS_MAP, _SpecialTokensMap, "a map of special tokens")
        named |= special.named
        if isinstance(special.extra_special_tokens, list):
            extra = [*(extra if isinstance(extra, list) else ()), *special.extra_special_tokens]
        texts = {token for token in (*named.values(), *(extra or ())) if isinstance(token, str)}
        texts |= {token.content for token in special.named.values() if isinstance(token, AddedToken)}
        added = read(ADDED_TOKENS, _AddedTokens, "a map of added tokens").root
        declared = [(number, AddedToken(content=text, special=text in texts)) for text, number in added.items()]
        declared = [*((number, token) for number, token in declared if number not in dict(own)), *own]
    if isinstance(extra, dict):
        named, extra = named | extra, None
    generation = read(GENERATION_CONFIG, _ModelConfig, "the config of generation")
    ends = (generation if GENERATION_CONFIG in files else model).eos_token_id
    return Settings(
        llama=llama,
        legacy=config.legacy is True or (not llama and "legacy" not in config.model_fields_set),
        add_prefix_space=config.add_prefix_space is not False,
        keep_special=config.split_special_tokens,
        declared=sorted(declared, key=lambda pair: pair[0]),
        named=named,
        extra=extra,
        ends=ends if isinstance(ends, list) else [] if ends is None else [ends],
        adds_bos=config.add_bos_token is not False,
        adds_eos=config.add_eos_token is True,
        templates=config.templates,
    )
