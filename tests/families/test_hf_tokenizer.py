"""The tokenizer of a Hugging Face folder: the ids and the texts of transformers' AutoTokenizer; what is refused; where answers end."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import AutoTokenizer
from transformers.generation.stopping_criteria import EosTokenCriteria

from eas_export import Question
from eas_export.checkpoint.hf_files import BESIDE_TOKENIZER, OF_THE_MODEL
from eas_export.core.errors import UserError
from eas_export.families import get_family, make_tokenizer
from eas_export.families.processing.hf_tokenizer import HuggingFaceTokenizer
from eas_export.families.processing.tokenizer import TextStream, Tokenizer, find_tokenizer
from eas_export.generation.conversation import Finish
from eas_export.generation.text_model import TextModel, open_model
from eas_export.pipeline import build

ROOT = Path(__file__).parents[2]
MODELS = {
    "demo": ROOT / "eas_export" / "demo" / "checkpoint" / "tokenizer.model",
    "tiny": TINY.folder / "weights" / "tokenizer.model",
    "bytes": {"model_type": "bpe"},  # with a byte for every unknown character, as LLaMA's
    "symbols": {"model_type": "bpe", "control_symbols": ["<ctl>"], "user_defined_symbols": ["the"]},
    "extended": {"model_type": "bpe"},  # by a piece with the best score
    "unigram": {"model_type": "unigram", "hard_vocab_limit": False},
}
TEXTS = (
    "USER: A? ASSISTANT: b</s>USER: C? ASSISTANT:",
    "",
    " ",
    "the cat",
    " the  cat ",
    "</s>the",
    "</s> the </s>",
    "</s></s>",
    "the</s>\n\nthe",
    "\nthe",
    "<s>a<unk>b",
    "\u2581the \u2581",
    "\u00e9 \u65e5\u672c\U0001f600 a\u00e9b",
    "<im><im_start>a <im_start> b<im_end> c",
    "x<im> y  <im>\u00a0 <im_start>\n<im_start>",
    "the<im_end>the <im_end> _<im_end>, <im_end>\u00e9",
    "<pad> <im",
    "<image>\nWhat?<image>",
    "a<ctl>b the",
    "<im>>a<im>|<x>><x><q>",
)


def token(content: str, **flags: bool) -> dict:
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False} | flags


def stored(content: str, **flags: bool) -> dict:
    return {"__type": "AddedToken"} | token(content, **flags)


def decoder(size: int) -> dict:
    """Of every kind."""
    own = {0: token("<unk>", special=True), 1: token("<s>", special=True), 2: token("</s>", special=True, rstrip=True)}
    added = (
        token("<im>", special=True, lstrip=True),
        token("<im_start>", rstrip=True),
        token("<im_end>", single_word=True, normalized=True),
        token("<image>", lstrip=True, rstrip=True, special=True),
    )
    return {str(i): each for i, each in (own | dict(enumerate(added, size))).items()}


LLAMA = {"tokenizer_class": "LlamaTokenizer"}
CONFIGS = {
    "alone": None,
    "no class": {},
    "no class, not legacy": {"legacy": False},
    "llama": LLAMA,
    "fast": {"tokenizer_class": "LlamaTokenizerFast"},
    "generic": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "legacy": LLAMA | {"legacy": True},
    "not legacy": LLAMA | {"legacy": False},
    "legacy null": LLAMA | {"legacy": None},
    "no space": LLAMA | {"add_prefix_space": False},
    "space": LLAMA | {"add_prefix_space": True, "legacy": True},
    "special is text": LLAMA | {"split_special_tokens": True},
    "published": LLAMA
    | {"legacy": False, "add_bos_token": True, "add_eos_token": False, "pad_token": None, "padding_side": "right"}
    | {"bos_token": stored("<s>"), "eos_token": stored("</s>"), "unk_token": stored("<unk>")},
}
# The other files, and more keys of tokenizer_config.json, by the number of pieces
BESIDE: dict[str, Callable[[int], dict]] = {
    "nothing": lambda size: {},
    "decoder": lambda size: {"tokenizer_config": {"added_tokens_decoder": decoder(size)}},
    "decoder and others": lambda size: {
        "tokenizer_config": {
            "added_tokens_decoder": {str(size): token("<im>", single_word=True, normalized=True)},
            "pad_token": "<pad>",
        },
        "added_tokens": {"<im_start>": size + 7},  # not read
        "special_tokens_map": {"pad_token": "<im_end>"},  # nor this
    },
    "added": lambda size: {"added_tokens": {"<im_start>": size + 1, "<im>": size, "<pad>": size + 2}},
    "map": lambda size: {
        "added_tokens": {"<im>": size, "<pad>": size + 1},
        "special_tokens_map": {"bos_token": token("<s>"), "eos_token": token("</s>", normalized=True)}
        | {"pad_token": "<pad>", "unk_token": {"content": "<unk>"}, "additional_special_tokens": ["<im>"]},
    },
    "nested": lambda size: {
        "added_tokens": {
            "<im>": size,
            "<im>>": size + 1,
            "<x>>": size + 2,
            "<im": size + 3,
            "<q": size + 4,
            "<q>": size + 5,
        },
        "special_tokens_map": {"pad_token": {"content": "<im>"}, "cls_token": {"content": "<x>"}, "sep_token": "<q"},
    },
    "extra of both": lambda size: {
        "tokenizer_config": {"additional_special_tokens": ["<im>"]},
        "special_tokens_map": {"extra_special_tokens": ["<im_end>"]},
    },
    "other end": lambda size: {
        "added_tokens": {"<im_end>": size},
        "special_tokens_map": {"eos_token": "<im_end>", "pad_token": "<unk>", "extra_special_tokens": ["</s>"]},
    },
    "named": lambda size: {
        "tokenizer_config": {"eos_token": stored("</s>", lstrip=True), "image_token": "<image>", "pad_token": "<unk>"}
    },
    "extra": lambda size: {
        "tokenizer_config": {"additional_special_tokens": ["<im>", stored("<im_start>", lstrip=True)]}
    },
    "no extra": lambda size: {"tokenizer_config": {"additional_special_tokens": []}},
    "extra of nothing": lambda size: {"tokenizer_config": {"additional_special_tokens": None}},
    "extra by name": lambda size: {"tokenizer_config": {"extra_special_tokens": {"image_token": "<im>"}}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, tuple[Path, int]]:
    """Name -> tokenizer.model, and its number of pieces."""
    folder, made = tmp_path_factory.mktemp("models"), {}
    lines = [line for line in (ROOT / "docs" / "run.md").read_text("utf-8").splitlines() if line]
    for name, given in MODELS.items():
        made[name] = given if isinstance(given, Path) else folder / name
        if not isinstance(given, Path):
            with open(made[name], "wb") as file:
                SentencePieceTrainer.train(
                    sentence_iterator=iter(lines),
                    model_writer=file,
                    byte_fallback=True,
                    vocab_size=600,
                    normalization_rule_name="identity",
                    remove_extra_whitespaces=False,
                    character_coverage=0.99,
                    minloglevel=2,
                    **given,
                )
    proto = ModelProto.FromString(made["extended"].read_bytes())
    proto.pieces.add(piece="e\u2581", score=0.0)
    made["extended"].write_bytes(proto.SerializeToString())
    return {name: (path, Tokenizer((path,), 1 << 20).size) for name, path in made.items()}


def write(folder: Path, model: Path, own: dict | None = None, model_type: str = "llava_llama", **files: object) -> Path:
    """A folder with tokenizer.model and these JSON files; own: keys of tokenizer_config.json"""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(model, folder / "tokenizer.model")
    if own is not None:
        files["tokenizer_config"] = own | files.get("tokenizer_config", {})
    for name, content in {"config": {"model_type": model_type}, **files}.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return folder


def read(folder: Path, vocabulary: int = 1 << 20) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(find_tokenizer([folder], None, beside=(*BESIDE_TOKENIZER, *OF_THE_MODEL)), vocabulary)


CASES = [(m, c) for m in MODELS for c in CONFIGS]


@pytest.mark.parametrize("model, config", CASES)
def test_ids_and_texts_are_those_of_transformers(models, tmp_path, model, config):
    path, size = models[model]
    for beside, files in BESIDE.items():
        for model_type in ("llava_llama", "llava")[: 2 if beside in ("nothing", "decoder", "added") else 1]:
            folder = write(tmp_path / f"{beside}-{model_type}", path, CONFIGS[config], model_type, **files(size))
            ours, theirs = read(folder), AutoTokenizer.from_pretrained(folder)
            assert (ours.bos, ours.eos) == (theirs.bos_token_id, theirs.eos_token_id), beside
            llama = (CONFIGS[config] or {}).get("tokenizer_class", "").startswith("Llama") and model_type != "llava"
            doubles = llama and CONFIGS[config].get("add_prefix_space", True)  # see the next test
            for text in TEXTS:
                before = " " if doubles and text.startswith((" ", "\u2581")) else ""
                ids = theirs.encode(before + text, add_special_tokens=False)
                assert ours.encode(text) == ids, (beside, model_type, text)
                assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), (beside, model_type, text)


@pytest.mark.parametrize("text", [" ", " the  cat ", "  the", " What is it? ASSISTANT:", "the", "\nWhat", ""])
def test_a_text_without_tokens_is_what_llava_was_trained_with(models, tmp_path, text):
    """The tokenizer of transformers 4.31, by which LLaVA trains and answers, gives such a text to sentencepiece as it is: of a text that begins
    with a space (as behind "<image> "), transformers 5 makes one space less."""
    path, _ = models["bytes"]
    published = SentencePieceProcessor(model_proto=path.read_bytes()).encode(text)
    folder = write(tmp_path / "ckpt", path, CONFIGS["published"])
    assert read(folder).encode(text) == published
    assert read(write(tmp_path / "alone", path)).encode(text) == published


def test_the_text_of_a_growing_answer_is_the_whole_text(models, tmp_path):
    path, size = models["bytes"]
    tokenizer = read(write(tmp_path / "ckpt", path, LLAMA, added_tokens={"<im>": size, "<im_start>": size + 1}))
    ids = [*tokenizer.encode(" the<im><im>\u65e5</s>the <im_start>"), size + 9, 0, tokenizer.eos]  # size + 9: no token
    stream = TextStream(tokenizer)
    pieces = [stream.push(number, last=i == len(ids) - 1) for i, number in enumerate(ids)]
    assert "".join(pieces) == tokenizer.decode(ids) == " the<im><im>\u65e5the <im_start>"


def test_a_folder_without_a_sentencepiece_model_has_no_tokenizer(models, tmp_path):
    folder = write(tmp_path / "ckpt", models["tiny"][0], LLAMA, added_tokens={})
    assert {path.name for path in find_tokenizer([folder], None, beside=(*BESIDE_TOKENIZER, *OF_THE_MODEL))} == {
        "tokenizer.model",
        "tokenizer_config.json",
        "added_tokens.json",
        "config.json",
    }
    (folder / "tokenizer.model").unlink()
    assert find_tokenizer([folder], None, beside=(*BESIDE_TOKENIZER, *OF_THE_MODEL)) == ()


LONG = "x" * 300
REFUSED = {
    "no json": ({"tokenizer_config": "{"}, "not the config of a tokenizer"),
    "a list": ({"tokenizer_config": "[]"}, "not the config of a tokenizer"),
    "flag of text": (
        {"tokenizer_config": {"added_tokens_decoder": {"128": token("<im>", lstrip="yes")}}},
        "added_tokens_decoder.128.lstrip",
    ),
    "id of text": ({"tokenizer_config": {"added_tokens_decoder": {"x": token("<im>")}}}, "added_tokens_decoder.x"),
    "empty content": ({"tokenizer_config": {"added_tokens_decoder": {"128": token("")}}}, "at least 1 character"),
    "empty added token": ({"added_tokens": {"": 128}}, "at least 1 character"),
    "long content": ({"added_tokens": {LONG: 128}}, "at most 256 characters"),
    "named by a number": ({"special_tokens_map": {"eos_token": 2}}, "not a map of special tokens"),
    "id of another piece": ({"added_tokens": {"<im>": 5}}, "token '<im>' has id 5, expected 128"),
    "another id of a piece": ({"added_tokens": {"</s>": 128}}, "token '</s>' has id 128, expected 2"),
    "ids that clash": ({"added_tokens": {"<im>": 128, "<pad>": 128}}, "token '<pad>' has id 128, expected 129"),
    "negative id": ({"added_tokens": {"<im>": -1}}, "token '<im>' has id -1, expected 128"),
    "id far away": ({"added_tokens": {"<im>": 10**40}}, "expected 128"),
    "id of a fraction": ({"added_tokens": {"<im>": 128.0}}, "not a map of added tokens"),
    "id of a truth": ({"added_tokens": {"<s>": True}}, "not a map of added tokens"),
    "no end": ({"tokenizer_config": {"eos_token": None}}, "the tokenizer has no eos_token"),
    "end beyond the model": (
        {"added_tokens": {"<a>": 128, "<b>": 129}, "special_tokens_map": {"eos_token": "<end>"}},
        r"the eos_token is '<end>' \(id 130\), but the model knows 130 tokens .*: name the eos_token that",
    ),
    "start beyond the model": (
        {"added_tokens": {"<a>": 128, "<b>": 129}, "special_tokens_map": {"bos_token": "<start>"}},
        r"the bos_token is '<start>' \(id 130\)",
    ),
    "end of text": ({"generation_config": {"eos_token_id": "2"}}, "not the config of generation"),
}


def test_a_token_outside_the_models_vocabulary_is_no_fault_until_a_text_has_it(models, tmp_path):
    """A pad token that training added and the model has no row for."""
    folder = write(tmp_path / "ckpt", models["tiny"][0], added_tokens={f"<{i}>": 128 + i for i in range(5000)})
    theirs, ours = AutoTokenizer.from_pretrained(folder), read(folder, 128)
    for text in ("a <7> b", "a b"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert max(ours.encode("a <7> b")) == 135


@pytest.mark.parametrize("ends", [-1, [2, 130], [130]])
def test_an_end_that_the_model_cannot_give_is_no_fault(models, tmp_path, ends):
    folder = write(tmp_path / "ckpt", models["tiny"][0], generation_config={"eos_token_id": ends})
    assert read(folder, 130).ends[0] == 2


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map": {"extra_special_tokens": {"image_token": "<image>"}}, "added_tokens": {"<image>": 128}},
        {"special_tokens_map": {"extra_special_tokens": {}}},
    ],
)
def test_forms_that_transformers_takes(models, tmp_path, files):
    folder = write(tmp_path / "ckpt", models["tiny"][0], LLAMA, **files)
    text = "a</s><image>b"
    assert read(folder).encode(text) == AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_later_turn_of_llava_is_read_as_in_the_whole_conversation(models, tmp_path, legacy):
    """LLaVA encodes a conversation (llava_v1 of its conversation module) anew for each answer."""
    folder, prompts = (
        write(tmp_path / "ckpt", models["bytes"][0], LLAMA | {"legacy": legacy}),
        get_family("llava").prompts,
    )
    ours, theirs = read(folder), AutoTokenizer.from_pretrained(folder)
    first = prompts.format(Question(question="the cat?"))
    ids = theirs.encode(f"{first} the hen</s>USER: and the cow? ASSISTANT:", add_special_tokens=False)
    start = ids.index(2)
    assert ours.encode(f"{first} the hen") == ids[:start]
    assert prompts.turn(ours, Question(question="and the cow?")) == ids[start:]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(models, tmp_path, name):
    files, said = REFUSED[name]
    folder = write(tmp_path / "ckpt", models["tiny"][0], **files)
    with pytest.raises(UserError, match=f"(?s){said}") as error:
        read(folder, 130)
    assert str(tmp_path) in str(error.value) and error.value.fix and len(str(error.value)) < 1000


def test_many_tokens_and_a_long_text_take_no_time(models, tmp_path):
    """Also where every token begins as the text does at every place."""
    path, size = models["tiny"]
    added = {"<" * (i % 250 + 1) + f"{i}>": size + i for i in range(30000)}
    tokenizer, begin = read(write(tmp_path / "ckpt", path, added_tokens=added)), time.monotonic()
    assert len(tokenizer.encode("<" * 4000)) > 0
    assert tokenizer.encode("<<<<<3>") == [54, *tokenizer.encode("<")[1:], size + 3]
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "files, ends",
    [
        ({}, (2,)),
        ({"generation_config": {"eos_token_id": 5}}, (2, 5)),
        ({"generation_config": {"eos_token_id": [7, 2, 5, 7]}}, (2, 7, 5)),
        ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": 6}}, (2,)),
        ({"config": {"eos_token_id": [6]}}, (2, 6)),
        ({"generation_config": {"eos_token_id": 5}, "config": {"eos_token_id": 6}}, (2, 5)),
    ],
)
def test_the_tokenizers_own_end_and_those_of_generation(models, tmp_path, files, ends):
    assert read(write(tmp_path / "ckpt", models["tiny"][0], **files)).ends == ends


@pytest.fixture(scope="module")
def checkpoint(plain, tmp_path_factory) -> Path:
    folder = shutil.copytree(plain, tmp_path_factory.mktemp("published") / "ckpt")
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIGS["published"]), "utf-8")
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint) -> Path:
    build(checkpoint, checkpoint.parent / "x.bundle", skip="none", precision="fp32", verify=False)
    return checkpoint.parent / "x.bundle"


def answered(command, bundle: Path, *options: object) -> dict:
    code, out, err = command("run", bundle, *options, "--max-new-tokens", 12, "--json")
    assert code == 0, err
    return json.loads(out)


PROMPT = "USER: A? ASSISTANT: b</s>USER: C? ASSISTANT:"


def test_a_control_token_in_a_prompt_is_what_transformers_makes_of_it(bundle, tmp_path, command):
    def of(ids: list[int]) -> list[int]:
        np.savez(tmp_path / "x.npz", input_ids=np.array([[1, *ids]]), prompt_lengths=[1 + len(ids)])
        return answered(command, bundle, "--inputs", tmp_path / "x.npz")["tokens"][0]

    theirs, letters = AutoTokenizer.from_pretrained(bundle), Tokenizer([bundle / "tokenizer.model"], 128)
    first = {}
    for prompt in (PROMPT, "USER: A</s>"):
        said = answered(command, bundle, "--prompt", prompt)["answers"][0]["tokens"]
        assert said == of(theirs.encode(prompt, add_special_tokens=False))
        first[prompt] = said[0], of(letters.encode(prompt))[0]
    assert len(set(first["USER: A</s>"])) == 2  # it makes a difference


def test_lavins_published_code_knows_no_control_tokens_in_texts():
    """Meta's tokenizer is sentencepiece alone, whatever else lies beside tokenizer.model."""
    tokenizer = make_tokenizer(TINY.checkpoint.tokenizer, TINY.checkpoint.config)
    model = SentencePieceProcessor(model_file=str(TINY.folder / "weights" / "tokenizer.model"))
    assert tokenizer.encode(PROMPT) == model.encode(PROMPT) and tokenizer.eos not in model.encode(PROMPT)


def test_an_answer_stops_at_every_end(checkpoint, bundle, command):
    """As generate() does; and the weights, which do not depend on it, are those of the earlier build."""
    whole = answered(command, bundle, "--prompt", PROMPT)["answers"][0]["tokens"]
    end = next(i for i in range(2, 12) if whole[i] not in whole[:i])
    ends = [whole[end], next(i for i in range(128) if i not in whole)]
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), "utf-8")
    before = (bundle / "weights.safetensors").stat().st_ino
    build(checkpoint, bundle, skip="none", precision="fp32", verify=False, force=True)
    assert (bundle / "weights.safetensors").stat().st_ino == before
    stops = [bool(EosTokenCriteria(ends)(torch.tensor([whole[: n + 1]]), None)) for n in range(12)]
    said = answered(command, bundle, "--prompt", PROMPT)["answers"][0]
    assert said["tokens"] == whole[: stops.index(True) + 1] == whole[: end + 1] and said["finish"] == Finish.EOS
    text = open_model(bundle)
    streamed = list(text.stream(text.start([Question(prompt=PROMPT)], room=12), 12))
    assert [tokens[0][0].id for tokens in streamed] == said["tokens"] and isinstance(text, TextModel)
