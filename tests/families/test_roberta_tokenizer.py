"""RoBERTa's tokenizer beside transformers' own, with METER's padding and truncation."""

import json
import random
import shutil

import pytest
from roberta_files import write_tokenizer, write_tokenizer_json
from transformers import RobertaTokenizer as Theirs

from eas_export.core.errors import UserError
from eas_export.families.processing.roberta_tokenizer import RobertaTokenizer

LENGTH, VOCABULARY = 12, 330
PARTS = ["what", " the", " cat", "  ", "\t\n", "é", "漢字", "🙂", "<mask>", " <mask>", "<s>", "</s>", "<pad>", "<unk>"]
PARTS += [
    "don't",
    "'ll",
    "\u00a0",
    "\u200b",
    "ﬁ",
    "FRISBEE",
    "0123",
    "a\u0301",
    "\ud7ff",
    "\x00",
    "<mask",
    "...",
    "\r",
    "#version",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    lists = write_tokenizer(tmp_path_factory.mktemp("lists"))
    return {"vocab.json": lists, "tokenizer.json": write_tokenizer_json(tmp_path_factory.mktemp("whole"), lists)}


def files_of(folder, name):
    return tuple(folder / each for each in (name, "merges.txt") if (folder / each).is_file())


def strings(count: int) -> list[str]:
    draw = random.Random(0)
    made = ["", " ", "what is the cat doing on the table?", "x" * 5000]
    while len(made) < count:
        made.append("".join(draw.choices(PARTS, k=draw.choice((1, 2, 4, 9, 30)))))
    return made


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
def test_ids_and_masks_are_transformers_own(name, folders):
    ours, theirs = (
        RobertaTokenizer(files_of(folders[name], name), VOCABULARY),
        Theirs.from_pretrained(str(folders[name])),
    )
    texts = strings(1000)
    want = theirs(texts, padding="max_length", truncation=True, max_length=LENGTH)
    got = [ours.encode(text, LENGTH) for text in texts]
    assert [ids for ids, _ in got] == want["input_ids"]
    assert [mask for _, mask in got] == want["attention_mask"]
    assert sum(mask[-1] for _, mask in got) > 100 < sum(not mask[-1] for _, mask in got), "some are cut, some filled up"
    assert {text for text, mask in zip(texts, got) if mask[1] == [1, 1] + [0] * (LENGTH - 2)} == {""}


def test_a_text_that_is_no_unicode_is_refused(folders):
    ours = RobertaTokenizer(files_of(folders["vocab.json"], "vocab.json"), VOCABULARY)
    with pytest.raises(UserError, match="is not valid Unicode text"):
        ours.encode("half \ud800", LENGTH)


@pytest.mark.parametrize(
    "name, change, said",
    [
        (
            "vocab.json",
            lambda ids: ids | {"<pad>": 3, "<unk>": 1},
            "is not RoBERTa's: <s> is 0, <pad> is 3, </s> is 2, expected <pad> 1",
        ),
        (
            "vocab.json",
            lambda ids: ids | {"more": 330},
            "the tokenizer has 331 tokens, but the model 330 .*the model's own tokenizer",
        ),
        ("vocab.json", lambda ids: [*ids], "not an object of tokens and their ids .*vocab.json"),
        ("vocab.json", lambda ids: ids | {"a": "b"}, "not an object of tokens and their ids .a is .*vocab.json"),
        (
            "tokenizer.json",
            lambda whole: {"version": "1.0"},
            "the file is not a tokenizer.json .*copy the tokenizer's files again",
        ),
    ],
)
def test_other_tokenizers_are_refused(name, change, said, folders, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / "t")
    (folder / name).write_text(json.dumps(change(json.loads((folder / name).read_text("utf-8")))), "utf-8")
    with pytest.raises(UserError, match=said):
        RobertaTokenizer(files_of(folder, name), VOCABULARY)


def test_damaged_files_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["vocab.json"], tmp_path / "t")
    with pytest.raises(UserError, match=r"vocab.json has no merges.txt beside it .*put RoBERTa's merges.txt there"):
        RobertaTokenizer((folder / "vocab.json",), VOCABULARY)
    for content in (b"a b c\n", b"q zq\n", b"\xff\xfe"):
        (folder / "merges.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"the tokenizers library cannot use the file .*merges.txt"):
            RobertaTokenizer(files_of(folder, "vocab.json"), VOCABULARY)
    (folder / "vocab.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not an object of tokens and their ids"):
        RobertaTokenizer(files_of(folder, "vocab.json"), VOCABULARY)
