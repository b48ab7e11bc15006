"""A classifier's answers, in each form in which people have them."""

import json

import pytest

from eas_export.checkpoint.labels import read_labels
from eas_export.core.errors import UserError

WORDS = ("net", "new york", "12", "", "é")
TWO_LINES = '{"answer": "net", "label": 1}\n{"answer": "12", "label": 0}\n'


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(WORDS),
        json.dumps({word: number for number, word in enumerate(WORDS)}),
        json.dumps({str(number): word for number, word in reversed([*enumerate(WORDS)])}, indent=1),
        json.dumps({"model_type": "vilt", "id2label": {str(number): word for number, word in enumerate(WORDS)}}),
        "".join(json.dumps({"answer": word, "label": number}) + "\n" for number, word in enumerate(WORDS)),
        "\ufeff" + json.dumps(WORDS),
    ],
    ids=["label2ans", "ans2label", "id2label", "config", "answer2label.txt", "with a mark"],
)
def test_every_form_gives_the_same_answers(content, tmp_path):
    path = tmp_path / "answers"
    path.write_text(content, "utf-8")
    assert read_labels(path, len(WORDS)) == WORDS


def test_plain_lines_and_one_line(tmp_path):
    path = tmp_path / "answers.txt"
    path.write_text("net\r\nnew york\n\n 12 \n")
    assert read_labels(path, 3) == ("net", "new york", "12")
    path.write_text(TWO_LINES)
    assert read_labels(path, 2) == ("12", "net")
    path.write_text('{"answer": "net", "label": 0}\n')
    assert read_labels(path, 1) == ("net",)


@pytest.mark.parametrize(
    "content, said",
    [
        ('["yes", "no", "yes"]', "'yes' is there twice"),
        ("yes\nno\nyes\n", "'yes' is there twice"),
        ('{"yes": 0, "yes": 1}', "'yes' is there twice"),
        ('{"yes": 0, "no": 0}', "the number 0 is there twice"),
        ('{"yes": 0, "no": 2}', "the number 1 is missing"),
        ('{"1": "yes", "2": "no"}', "the number 0 is missing"),
        ('{"0": "yes", "1": "yes"}', "'yes' is there twice"),
        ('{"yes": 0.5}', "the number of 'yes' is 0.5"),
        ('{"yes": "zero"}', "the number of 'zero' is 'yes'"),
        ('["yes", 1]', "1 is not a text"),
        ("17", "a JSON int"),
        (TWO_LINES + '{"answer": "x"}', "a line is {'answer': 'x'}"),
        (TWO_LINES + "no", "Expecting value"),
        (b"\xff\xfe\x00", "utf-8"),
        ("[" * 100_000, "recursion"),
        ('["yes", "no", "maybe"]', "the file has 3 answers, but the model 2 .*the model was trained with"),
        ("\n", "the file has 0 answers"),
    ],
)
def test_others_are_refused(content, said, tmp_path):
    path = tmp_path / "answers.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        read_labels(path, 2)
    with pytest.raises(UserError, match="no such file"):
        read_labels(tmp_path / "none.json", 2)
