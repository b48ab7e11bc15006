"""The demo: a model that was really trained, what is left of it without some attentions, and what EAS makes of that."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import made_once
from PIL import Image

from eas_export.bundle.bundle import open_bundle
from eas_export.demo import BASE, CHECKPOINT, QUESTIONS, digits, train
from eas_export.demo.compare import BARE, EAS, FULL
from eas_export.demo.pictures import beside
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.inputs.questions import read_questions

DIGITS = Path(__file__).parents[2] / "calibration" / "digits.jsonl"


def test_it_answers_as_well_as_the_whole_model(tmp_path, command):
    """On every held-out question; the bundles token for token as PyTorch."""
    folder = tmp_path / "demo"
    out = folder / "demo.bundle"
    code, text, err = command("demo", "--out", folder, "--json")
    said = json.loads(text)
    assert code == 0, err
    assert said["report"]["verdict"] == "same as the checkpoint" and said["answers_agree"] is True
    models = {each["model"]: each for each in said["answers"]}
    assert list(models) == [FULL, BARE, EAS, f"{EAS}, --fold weights", f"{EAS}, --fold lowrank"]
    assert {each["questions"] for each in models.values()} == {len(read_questions(QUESTIONS))}
    assert all(each["as_eas"] == 1 for name, each in models.items() if name.startswith(EAS))
    right = {name: each["right"] for name, each in models.items()}
    assert right[EAS] == right[f"{EAS}, --fold weights"] == right[f"{EAS}, --fold lowrank"]
    assert right[FULL] > 0.9 and right[EAS] > right[FULL] - 0.01 and right[BARE] < right[EAS] - 0.05
    assert models[EAS]["weights_mb"] < models[FULL]["weights_mb"]
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoint", "demo.bundle", "report.html", "questions.jsonl", "questions.png", "images"),
    }
    replies = json.loads(command("run", out, "--inputs", folder / "questions.jsonl", "--json")[1])["answers"]
    assert [each["text"].strip() for each in replies] == [each["bundle"] for each in said["examples"]]
    plan = open_bundle(out).manifest.plan
    assert 3 * len(plan.skipped) >= plan.sites
    code, text, err = command("run", out, "--inputs", DIGITS, "--json")
    replies, wanted = json.loads(text)["answers"], read_questions(DIGITS)
    same = [reply["text"].strip() == question.answer[0] for reply, question in zip(replies, wanted, strict=True)]
    assert code == 0 and sum(same) > 0.9 * len(same), err


def test_it_prints_questions_answers_and_a_command_that_works(tmp_path, monkeypatch, command):
    """Three questions with their pictures, the answers of both models, the skipped layers, and a command that is run as printed. Again, over
    what the first run wrote, the same."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join(QUESTIONS.read_text().splitlines(keepends=True)[:40]))
    (tmp_path / "images").symlink_to(QUESTIONS.parent / "images")
    monkeypatch.setattr("eas_export.demo.run.QUESTIONS", few)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for _ in range(2):
        code, text, err = command("demo")
        assert code == 0, err
        lines = text.splitlines()
        assert max(map(len, lines)) <= 80
        assert sum("every attention: " in line for line in lines) == sum("EAS bundle: " in line for line in lines) == 3
        assert sum(bool(re.search("[░▒▓█]{2}|[.:*#]{2}", line)) for line in lines) > 20
        assert "layers 0 . 2 3 . 5 . . . 9 . .   (. = attention skipped: 7 of 12)" in lines
        assert "verdict: same as the checkpoint (eas-demo/report.html)" in lines
        name, *arguments = shlex.split(lines[-1])
        code, answers, err = command(*arguments)
        assert name == "eas-export" and code == 0 and len(answers.splitlines()) == 3, err
        code, text, err = command("run", "eas-demo/demo.bundle", "--prompt", "Which one is larger?")
        assert code == 0 and not text.strip() and "note: the answer is empty" in err
        code, text, err = command(*shlex.split(lines[-2])[1:])
        assert code == 0 and text.startswith("verdict: same as the checkpoint"), err


def test_a_folder_with_other_files_is_left_alone(tmp_path, refused):
    (tmp_path / "questions.jsonl").write_text("mine")
    assert "the folder has files, such as 'questions.jsonl', but not the demo's checkpoint" in refused(
        "demo", "--out", tmp_path
    )
    assert (tmp_path / "questions.jsonl").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_of_ones_own_is_not_replaced(tmp_path, refused):
    (tmp_path / "demo.bundle").mkdir()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("mine")
    assert "but not the demo's checkpoint" in refused("demo", "--out", tmp_path)
    assert (tmp_path / "checkpoint" / "config.json").read_text() == "mine"


def test_pictures_in_ascii():
    image = Image.new("L", (2, 1))
    image.putpixel((1, 0), 255)
    assert beside([image, image], ["what?"], ascii_only=True) == ["  ##      ##    what?"]


def test_the_eas_checkpoint_is_the_base_with_adapters():
    base, eas = load_checkpoint(Sources(BASE)), load_checkpoint(Sources(CHECKPOINT))
    assert base.config.kept_adapter is None and eas.config.kept_adapter is not None
    for name in ("embed.weight", "layers.0.ffn.gate.weight", "vision.project1.weight"):
        assert (base.tensors[name].read() == eas.tensors[name].read()).all()


def test_a_plain_model_has_no_adapters_to_speak_of(command):
    code, text, err = command("inspect", BASE, "--skip", "3", "--json")
    notes = json.loads(text)["notes"]
    assert code == 0 and len(notes) == 1 and "not what the checkpoint was trained with" in notes[0], err


def test_no_model_was_trained_on_the_questions(tmp_path):
    """Pictures that are held out are in no other set."""
    asked = {Path(name).name for question in read_questions(QUESTIONS) for name in question.image}
    other = {Path(name).name for question in read_questions(DIGITS) for name in question.image}
    assert {int(name[:4]) >= digits.TRAIN for name in asked} == {True} and not asked & other
    again = digits.write_questions(
        tmp_path / "again", "questions", digits.TRAIN, digits.ALL, train.HELD_OUT_QUESTIONS, 0
    )
    assert again.read_bytes() == QUESTIONS.read_bytes(), "the questions are those that the script makes"


@pytest.mark.parametrize("question", digits.TEMPLATES)
def test_answers_are_right(question):
    """Of every two digits, whatever the words of the question say."""
    for a in range(10):
        for b in range(10):
            said = digits.TEMPLATES[question](a, b)
            if "sum" in question:
                assert int(said) == a + b
            elif "without" in question:
                assert int(said) + b == a
            elif "larger digit" in question:
                assert int(said) == max(a, b)
            elif "larger" in question:
                assert said == ("neither" if a == b else "first" if a > b else "second")
            else:
                digit = a if "first" in question else b
                assert said == (str(digit) if "Which" in question else "odd" if digit % 2 else "even")


def test_training_says_what_is_missing_or_in_the_way(tmp_path, monkeypatch, refused):
    assert "name a new folder" in refused("demo", "--train", tmp_path)
    assert "--out cannot go with --train" in refused("demo", "--train", tmp_path / "new", "--out", tmp_path)
    assert "--seed needs --train" in refused("demo", "--seed", 1)
    (tmp_path / "file").write_text("x")
    assert "the output cannot be written (Not a directory)" in refused("demo", "--train", tmp_path / "file" / "new")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'scikit-learn>=" in refused("demo", "--train", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_it_can_be_trained_anew(tmp_path_factory, monkeypatch, command):
    """A little: what comes out loads, and holds the base. Pictures that are held out are never trained on: a digit that no classifier has
    is on them here, and an answer that no question has."""
    pictures, labels = digits.load()
    poisoned = np.where(np.arange(len(labels)) < digits.TRAIN, labels, 1000)
    monkeypatch.setattr(digits, "load", lambda: (pictures, poisoned))
    for name, value in (("STEPS", 4), ("TOWER_STEPS", 4), ("QUESTIONS", 40)):
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(train, "SEARCH", train.SEARCH | dict(steps=4, warm_up=1, every=1, tune_steps=2, batch=4))
    with made_once(tmp_path_factory, "demo", "trained") as out:
        code, text, err = command("demo", "--train", out, "--seed", 3, "--json")
    assert code == 0, err
    trained = read_questions(out / "train.jsonl")
    assert all(int(Path(name).stem) < digits.TRAIN for question in trained for name in question.image)
    assert all(len(question.answer[0]) < 8 and "1000" not in question.answer[0] for question in trained)
    report, made = json.loads(text), load_checkpoint(Sources(out / "checkpoint"))
    assert made.config.layers == train.LAYERS and f"{report['skipped']}" == made.evidence.text
    assert {path.name for path in out.iterdir()} == {
        "base",
        "checkpoint",
        "held_out",
        "images",
        "train.jsonl",
        "calibration",
    }
