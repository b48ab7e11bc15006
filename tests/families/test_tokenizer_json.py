"""tokenizer.json, what transformers 5 saves: the ids and the texts of AutoTokenizer; beside tokenizer.model; for LaVIN; --tokenizer."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY
from sentencepiece import SentencePieceProcessor
from test_hf_tokenizer import BESIDE, CONFIGS, LLAMA, MODELS, TEXTS, models, read, token, write
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from eas_export import Question
from eas_export.checkpoint.hf_files import TOKENIZER_JSON
from eas_export.core.errors import UserError
from eas_export.core.progress import Progress
from eas_export.families import NO_TOKENIZER, load_checkpoint, make_tokenizer
from eas_export.families.contract import Ranks, Sources
from eas_export.families.llava import LLAVA
from eas_export.families.llava.prompt import IMAGE, PROMPTS
from eas_export.families.processing.tokenizer import TextStream, Tokenizer, find_tokenizer
from eas_export.generation.text_model import open_model
from eas_export.inputs.questions import make_prompt
from eas_export.pipeline import build
from eas_export.search.examples import Examples

assert models  # a fixture
KEPT = ("alone", "llama", "legacy", "no space", "special is text", "published")


def saved(folder: Path, *args: object, **files: object) -> Path:
    """What transformers saves of the folder that `write` makes of these, with its config.json"""
    old = write(folder.with_name(f"{folder.name}-old"), *args, **files)
    AutoTokenizer.from_pretrained(old).save_pretrained(folder)
    shutil.copy(old / "config.json", folder)
    return folder


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def require_same(folder: Path) -> None:
    """What `read` makes of a folder is what transformers makes of it."""
    ours, theirs = read(folder), AutoTokenizer.from_pretrained(folder)
    assert (ours.bos, ours.eos) == (theirs.bos_token_id, theirs.eos_token_id)
    # A text that begins with a space: as LLaVA was trained, not as transformers 5 reads it (test_hf_tokenizer.py)
    doubles = type(theirs).__name__ == "LlamaTokenizer" and theirs.add_prefix_space is not False
    for text in TEXTS:
        begin = " " if doubles and text.startswith((" ", "\u2581")) else ""
        ids = theirs.encode(begin + text, add_special_tokens=False)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
        assert [*ours.before, *ids, *ours.after] == theirs.encode(begin + text), text


@pytest.mark.parametrize("config", KEPT)
@pytest.mark.parametrize("model", MODELS)
def test_ids_and_texts_are_those_of_transformers(models, tmp_path, model, config):
    path, size = models[model]
    for beside in ("decoder", "added", "other end"):
        for model_type in ("llava_llama", "llava")[: 2 if beside == "added" else 1]:
            files = BESIDE[beside](size)
            folder = saved(tmp_path / f"{beside}-{model_type}", path, CONFIGS[config], model_type, **files)
            assert {file.name for file in folder.iterdir()} >= {TOKENIZER_JSON, "tokenizer_config.json"}
            require_same(folder)


def of_transformers_4(content: dict) -> None:
    """The fast tokenizer that it saved, with merges as texts."""
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    }
    content["pre_tokenizer"] = None
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]


def byte_level(content: dict) -> None:
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def ends_texts(content: dict) -> None:
    last = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    content["post_processor"]["single"].append(last)
    content["post_processor"]["special_tokens"]["</s>"] = {"id": "</s>", "ids": [2], "tokens": ["</s>"]}


def truncated(content: dict) -> None:
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 30},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("change", [of_transformers_4, byte_level, ends_texts, truncated])
def test_other_files_and_settings(models, tmp_path, change, tokenizer_class):
    path, size = models["bytes"]
    folder = saved(tmp_path / "ckpt", path, CONFIGS["published"], **BESIDE["added"](size))
    edit(folder / TOKENIZER_JSON, change)
    edit(folder / "tokenizer_config.json", lambda content: content.update(tokenizer_class=tokenizer_class))
    require_same(folder)
    # Tokens that other files declare, with other flags than in tokenizer.json, and one that it lacks
    declared = {"2": token("</s>", special=True, rstrip=True), str(size + 3): token("<image>", lstrip=True)}
    edit(folder / "tokenizer_config.json", lambda content: content.update(added_tokens_decoder=declared))
    if tokenizer_class == "PreTrainedTokenizerFast" or change is byte_level:  # the other has lost the tokens before it
        require_same(folder)
    else:
        with pytest.raises(UserError, match=rf"token '<image>' has id {size + 3}, expected {size}"):
            read(folder)


def published_ids(prompt: str, tokenizer: Callable[[str], list[int]], bos: int) -> list[int]:
    """Written from LLaVA's code (mm_utils.tokenizer_image_token): the tokenizer's own start token is kept before the first part only."""
    parts = [tokenizer(part) for part in prompt.split("<image>")]
    skipped = int(parts[0][:1] == [bos])
    ids = parts[0][:skipped]
    for i, part in enumerate(parts):
        ids += [IMAGE] * (i > 0) + part[skipped:]
    return ids


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("bos, eos", [(True, False), (False, False), (True, True), (False, True)])
def test_start_and_end_tokens_of_prompts_are_those_of_the_published_code(models, tmp_path, is_json, bos, eos):
    """add_bos_token and add_eos_token beside tokenizer.model; a tokenizer.json says it by itself."""
    config = LLAMA | {"add_bos_token": bos, "add_eos_token": eos}
    folder = (saved if is_json else write)(tmp_path / "ckpt", models["bytes"][0], config)
    if is_json:
        edit(folder / "tokenizer_config.json", lambda content: content.update(add_bos_token=not bos))  # not read
    ours, theirs = read(folder), AutoTokenizer.from_pretrained(folder)
    for text, images in (("the<image>\ncat</s>", 1), ("the", 0), ("a<image>b<image>", 2)):
        want = published_ids(text, theirs.encode, theirs.bos_token_id)
        assert PROMPTS.encode(None, ours, text, images) == want
    said = {"prompts begin without a start token": not bos, "prompts end with an end token": eos}
    assert [any(note.startswith(text) for note in ours.notes()) for text in said] == list(said.values())


def test_without_a_word_about_it_llamas_prompts_begin_with_the_start_token(models, tmp_path):
    """The default of the tokenizer that LLaVA was trained with; transformers 5 leaves the token out."""
    assert read(write(tmp_path / "ckpt", models["bytes"][0], LLAMA)).before == (1,)


@pytest.mark.parametrize("text", [" ", " the  cat ", "  the", " What is it? ASSISTANT:", "the", "\nWhat", ""])
def test_a_text_without_tokens_is_what_llava_was_trained_with(models, tmp_path, text):
    path, _ = models["bytes"]
    want = SentencePieceProcessor(model_proto=path.read_bytes()).encode(text)
    assert read(saved(tmp_path / "ckpt", path, CONFIGS["published"])).encode(text) == want


def test_the_text_of_a_growing_answer_is_the_whole_text(models, tmp_path):
    path, size = models["bytes"]
    tokenizer = read(saved(tmp_path / "ckpt", path, CONFIGS["published"], **BESIDE["added"](size)))
    ids = [*tokenizer.encode(" the<im><im>\u65e5</s>the <im_start>\U0001f600"), size + 9, 0, tokenizer.eos]
    stream = TextStream(tokenizer)
    pieces = [stream.push(number, last=i == len(ids) - 1) for i, number in enumerate(ids)]
    assert "".join(pieces) == tokenizer.decode(ids) == " the<im><im>\u65e5the <im_start>\U0001f600"
    assert not any("\ufffd" in piece for piece in pieces)


def test_of_two_files_that_agree_nothing_is_said(models, tmp_path):
    path, size = models["bytes"]
    for name, files in {"nothing": {}, "tokens": BESIDE["added"](size)}.items():
        folder = saved(tmp_path / name, path, CONFIGS["published"], **files)
        shutil.copy(folder / TOKENIZER_JSON, tmp_path / f"{name}-old")
        assert read(tmp_path / f"{name}-old").notes() == ()


def drop_a_piece(content: dict) -> None:
    content["model"]["vocab"].popitem()
    pieces = content["model"]["vocab"]
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if {*pair, "".join(pair)} <= {*pieces}]


def merge_differently(content: dict) -> None:
    content["model"]["merges"].clear()


def add_a_token(content: dict) -> None:
    content["added_tokens"].append(token("<x>", special=False) | {"id": 600})


@pytest.mark.parametrize(
    "change, said",
    [
        (drop_a_piece, "vocabularies of 600 and 599"),
        (merge_differently, r"'USER: What.*' is \["),
        (add_a_token, r"'<x>' is \[.*\] and \[600\]"),
        (lambda content: content.update(post_processor=None), r"prompts begin with \[1\] and \[\]"),
        (lambda content: content.pop("model"), "not a tokenizer.json"),
    ],
)
def test_of_two_files_that_differ_the_one_of_the_training_is_read_with_a_note(models, tmp_path, change, said):
    path, _ = models["bytes"]
    folder = saved(tmp_path / "json", path, CONFIGS["published"])
    edit(folder / TOKENIZER_JSON, change)
    both = write(tmp_path / "both", path, CONFIGS["published"])
    shutil.copy(folder / TOKENIZER_JSON, both)
    tokenizer = read(both)
    assert tokenizer.encode("the cat") == SentencePieceProcessor(model_proto=path.read_bytes()).encode("the cat")
    (note,) = tokenizer.notes()
    assert (
        note.startswith("tokenizer.model is read, not tokenizer.json")
        and f"--tokenizer {both / TOKENIZER_JSON}" in note
    )
    assert re.search(said, note), note


DAMAGED = {
    "no json": ("{", "not a tokenizer.json"),
    "no model": ({}, "not a tokenizer.json \\(model: Field required"),
    "a merge of no piece": ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}, "out of vocabulary"),
    "a token without text": ({"model": {}, "added_tokens": [token("") | {"id": 0}]}, "added_tokens.0.content"),
    "a panic": (
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        "cannot use the file",
    ),
    "another kind": ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "another kind of model \\(WordLevel\\)"),
    "no tokenizer_config.json": (
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "no bos_token: no tokenizer_config.json names it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_refused(tmp_path, name):
    content, said = DAMAGED[name]
    (tmp_path / TOKENIZER_JSON).write_text(content if isinstance(content, str) else json.dumps(content))
    if name == "another kind":
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(UserError, match=f"(?s){said}") as error:
        read(tmp_path)
    assert str(tmp_path) in error.value.where and error.value.fix and len(str(error.value)) < 1000


@pytest.mark.parametrize("model", ["tiny", "bytes"])
def test_lavin_reads_it_as_metas_code_reads_tokenizer_model(models, tmp_path, model):
    path, _ = models[model]
    published = SentencePieceProcessor(model_proto=path.read_bytes())
    folder = saved(tmp_path / "ckpt", path, LLAMA, added_tokens={"<im>": published.vocab_size()})
    files = find_tokenizer([folder], None)
    assert [file.name for file in files] == [TOKENIZER_JSON]
    ours = Tokenizer(files, 1 << 20)
    assert (ours.bos, ours.eos, ours.ends, ours.size) == (1, 2, (2,), published.vocab_size())
    for text in TEXTS:
        ids = published.encode(text)
        assert ours.encode(text) == ids, text
        for answer in ([1, *ids, 2], [0, *ids], [*ids, 0, 0]):
            assert ours.decode([*answer, 9999]) == published.decode(answer), text


def test_lavins_tokenizer_lies_beside_params_json_or_above(models, tmp_path):
    folder = shutil.copytree(TINY.folder, tmp_path / "data")
    model = next((folder / "weights").glob("*/params.json")).parent
    want = TINY.checkpoint.tokenizer[0].name
    (folder / "weights" / want).rename(model / want)
    (found,) = load_checkpoint(Sources(folder)).tokenizer
    assert found == model / want
    for given in (model / want, model):
        apart = Sources(TINY.folder, tokenizer=given)
        assert load_checkpoint(apart).tokenizer == (found,)
    json_only = saved(tmp_path / "saved", found, LLAMA)
    found.unlink()
    assert load_checkpoint(Sources(folder)).tokenizer == ()
    shutil.copy(json_only / TOKENIZER_JSON, model)
    checkpoint = load_checkpoint(Sources(folder))
    assert checkpoint.tokenizer == (model / TOKENIZER_JSON,)
    tokenizer = make_tokenizer(checkpoint.tokenizer, checkpoint.config)
    assert tokenizer.encode("the cat") == make_tokenizer(TINY.checkpoint.tokenizer, TINY.checkpoint.config).encode(
        "the cat"
    )


def test_what_no_tokenizer_is(tmp_path, refused):
    (tmp_path / "other.json").write_text("{}")
    for given, said in (
        (tmp_path / "other.json", "no tokenizer has the name other.json"),
        (tmp_path, "no tokenizer is there"),
        (tmp_path / "gone", "no such file or folder"),
    ):
        assert said in refused("inspect", TINY.folder, "--tokenizer", given)


@pytest.fixture(scope="module")
def checkpoint(plain, tmp_path_factory) -> Path:
    """As transformers 5 saves it."""
    folder = shutil.copytree(plain, tmp_path_factory.mktemp("saved") / "ckpt")
    of = saved(
        folder.parent / "tokenizer", folder / "tokenizer.model", CONFIGS["published"], added_tokens={"<pad>": 128}
    )
    (folder / "tokenizer.model").unlink()
    for name in (TOKENIZER_JSON, "tokenizer_config.json"):
        shutil.copy(of / name, folder)
    return folder


def test_a_bundle_carries_it(checkpoint, tmp_path, command):
    bundle = build(checkpoint, tmp_path / "x.bundle", skip="none", precision="fp32", verify=False).bundle
    assert {TOKENIZER_JSON, "tokenizer_config.json", "config.json"} <= bundle.manifest.files.keys()
    assert not bundle.manifest.notes
    text, theirs = open_model(bundle), AutoTokenizer.from_pretrained(bundle.path)
    (reply,) = text.replies([Question(prompt="USER: A? ASSISTANT:")], 8)
    assert reply.text == theirs.decode(reply.tokens, skip_special_tokens=True)
    config, family = bundle.manifest.config, text.family
    prompt = make_prompt(Question(prompt="USER: A</s>"), config, family, text.tokenizer, "here")
    assert prompt.input_ids.tolist() == [theirs.encode("USER: A</s>")]
    for ask in (
        lambda: text.start([Question(prompt="a<pad>b")]),
        lambda: text.extend(text.start([Question(prompt="a")]), ["<pad>"]),
        lambda: text.ask(text.start([Question(prompt="a")]), ["<pad>"]),
    ):
        with pytest.raises(
            UserError, match=r"the text has the token '<pad>' \(id 128\), but the model knows 128 tokens"
        ):
            ask()


def test_an_answer_with_a_token_that_the_model_lacks_is_not_trained_on(checkpoint, tmp_path):
    opened = load_checkpoint(Sources(checkpoint))
    (tmp_path / "x.jsonl").write_text('{"question": "a", "answer": "a"}\n{"question": "a", "answer": "<pad>"}\n')
    with pytest.raises(UserError, match=r"'<pad>' \(id 128\), but the model knows 128 .*line 2: answer\)"):
        Examples(tmp_path / "x.jsonl", opened.config, LLAVA, make_tokenizer(opened.tokenizer, opened.config))


def test_a_model_without_one_says_so_and_an_option_names_one(plain, checkpoint, tmp_path, command):
    bare = shutil.copytree(plain, tmp_path / "ckpt")
    (bare / "tokenizer.model").unlink()
    asks = (("inspect", bare), ("build", "--ckpt", bare, "--out", tmp_path / "o", "--skip", "none", "--dry-run"))
    for ask in asks:
        code, out, err = command(*ask)
        assert code == 0 and f"note: {NO_TOKENIZER}" in out, err
    for given in (checkpoint, checkpoint / TOKENIZER_JSON):
        for ask in asks:
            code, out, err = command(*ask, "--tokenizer", given)
            assert code == 0 and "tokenizer" not in out.replace(str(tmp_path), ""), err
    found = load_checkpoint(Sources(plain, tokenizer=checkpoint)).tokenizer  # it wins over tokenizer.model
    assert {path.parent for path in found if path.name in (TOKENIZER_JSON, "tokenizer_config.json")} == {checkpoint}
    assert "tokenizer.model" not in {path.name for path in found} and plain / "config.json" in found


def test_a_search_writes_the_tokenizer_that_it_was_given(plain, checkpoint, tmp_path):
    trainable = LLAVA.train(Sources(plain, tokenizer=checkpoint), Ranks(4, 4), 0, torch.device("cpu"))
    trainable.write((), tmp_path, Progress())
    written = load_checkpoint(Sources(tmp_path)).tokenizer
    assert {path.name: path.read_bytes() for path in written if path.name != "config.json"} == {
        name: (checkpoint / name).read_bytes() for name in (TOKENIZER_JSON, "tokenizer_config.json")
    }


@pytest.mark.parametrize(
    "asked, images, text",
    [
        ("<image>\nWhich?", 1, "<image>\nWhich?"),
        ("Which is <image>", 1, "<image>\nWhich is"),
        ("Is <image> larger than <image>?", 2, "Is <image> larger than <image>?"),
        ("Is it like <image>?", 2, "<image>\nIs it like <image>?"),
    ],
)
def test_the_place_of_an_image_in_a_question(asked, images, text):
    """One image: as LLaVA's evaluation of ScienceQA and its training, which take <image> out of the text and put it first."""
    said = PROMPTS.format(Question(question=asked, image=["a.png"] * images))
    assert said.endswith(f" USER: {text} ASSISTANT:")


def test_a_tokenizer_json_and_nothing_else(models, tmp_path):
    """transformers names no special token then, but puts the start token before a text."""
    path, _ = models["bytes"]
    folder = saved(tmp_path / "ckpt", path, CONFIGS["published"])
    for file in folder.iterdir():
        if file.name != TOKENIZER_JSON:
            file.unlink()
    ours, theirs = read(folder), PreTrainedTokenizerFast(tokenizer_file=str(folder / TOKENIZER_JSON))
    assert (ours.bos, ours.eos, ours.before) == (1, 2, (1,))
    for text in TEXTS:
        assert [*ours.before, *ours.encode(text), *ours.after] == theirs.encode(text), text


def test_a_tokenizer_of_another_name_is_to_be_renamed(models, tmp_path):
    path, _ = models["bytes"]
    (tmp_path / "sp.model").write_bytes(path.read_bytes())
    with pytest.raises(
        UserError, match=r"no tokenizer has the name sp.model .*name the file tokenizer.model or tokenizer.json"
    ):
        find_tokenizer([], tmp_path / "sp.model")
