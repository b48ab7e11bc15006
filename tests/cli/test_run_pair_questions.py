"""`run` and `verify` on a cross-encoder with texts and images, beside RoBERTa's tokenizer of transformers, a naive transcription of the
published image transform and one of the network."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FP32
from meter_cases import MeterCase
from PIL import ExifTags, Image
from reference.meter import MeterReference
from reference.meter_images import meter_pixels
from roberta_files import write_tokenizer
from transformers import RobertaTokenizer

from eas_export.cli import run_pair_questions
from eas_export.core.errors import UserError
from eas_export.families.processing.question import Question
from eas_export.generation.pair_model import open_pair_model
from eas_export.pipeline import build

VQA, NLVR2, RETRIEVAL = MeterCase("vqa_skip10"), MeterCase("nlvr2_skip10"), MeterCase("irtr_skip10")
WORDS = [f"answer {number}" for number in range(31)]
SIZE = 32  # pixels that the models read
NAMES = ("a.png", "b.jpg", "c.webp", "d.PNG", "e.gif")
TEXTS = ("two dogs", "a cat on the table?", "", "is there a red frisbee in the left image of the two?", "two dogs")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Images of several modes, a tokenizer and a list of answers."""
    folder, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number, name in enumerate(NAMES):
        colors = random.integers(0, 256, (40 + number, 30 + 7 * number, 4), np.uint8)
        image = Image.fromarray(colors, "RGBA")
        image.convert("RGB" if name[0] in "be" else "RGBA").save(folder / "photos" / name)
    (folder / "photos" / "notes.txt").write_text("no image")
    write_tokenizer(folder / "roberta", 110)
    (folder / "answers.json").write_text(json.dumps(WORDS))
    return folder


@pytest.fixture(scope="module")
def bundle_of(files, tmp_path_factory):
    """Bundles that take two pairs at once, with tokenizer and answers."""

    @cache
    def get(case: MeterCase) -> Path:
        out = tmp_path_factory.mktemp("bundles") / case.name
        labels = files / "answers.json" if case == VQA else None
        options = {"skip": case.skip, "text_heads": case.text_heads, "max_batch": 2, "tokenizer": files / "roberta"}
        build(case.file, out, labels=labels, verify=False, **options)
        return out

    return get


@cache
def reference(case: MeterCase) -> MeterReference:
    return MeterReference(case.file, case.skip, case.text_heads, "published")


def wanted(case: MeterCase, files: Path, text: str, *names: str) -> torch.Tensor:
    """Logits or a score, by transcriptions alone."""
    tokenizer = RobertaTokenizer.from_pretrained(str(files / "roberta"))
    length = case.meta["sizes"]["text_len"]
    ids = tokenizer(text, padding="max_length", truncation=True, max_length=length)
    pixels = [meter_pixels(files / "photos" / name, SIZE) for name in names]
    return reference(case).run(torch.tensor(ids["input_ids"]), torch.tensor(ids["attention_mask"]), *pixels)[case.head]


@pytest.fixture
def said(bundle_of, files, command, monkeypatch):
    """said(case, ...) -> the answers of run --json; paths are those of the files' folder"""

    def get(case: MeterCase, *arguments: object) -> list[dict]:
        monkeypatch.chdir(files)
        code, out, err = command("run", bundle_of(case), *arguments, "--json")
        assert code == 0, err
        return json.loads(out)["answers"]

    return get


def lines_of(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_vqa_answers_in_words_with_their_probabilities(said, files):
    (answer,) = said(VQA, "--question", TEXTS[1], "--image", "photos/a.png", "--top", 3)
    want = wanted(VQA, files, TEXTS[1], "a.png").sigmoid()  # by the loss of training, one probability for each answer
    best = want.topk(3)
    assert [each["answer"] for each in answer["answers"]] == [WORDS[i] for i in best.indices]
    assert [each["probability"] for each in answer["answers"]] == pytest.approx(best.values.tolist(), abs=FP32)
    assert (answer["question"], answer["answer"], answer["probability"]) == (1, *answer["answers"][0].values())


def test_a_text_longer_than_those_of_training_is_cut_with_a_note(bundle_of, files, command, monkeypatch):
    monkeypatch.chdir(files)
    asked = ("run", bundle_of(VQA), "--image", "photos/a.png", "--json", "--question")
    short, long = (command(*asked, text) for text in (TEXTS[1], TEXTS[1] * 50))
    assert "is not read, as in training" in long[2] and "not read" not in short[2]


def test_from_python_one_question_is_asked_and_a_model_that_ranks_says_so(bundle_of, files):
    asked = Question(question=TEXTS[1], image=files / "photos" / "a.png")
    ((best, *_),) = open_pair_model(bundle_of(VQA)).answers(asked)
    assert best.text in WORDS and 0 < best.probability < 1
    with pytest.raises(UserError, match=r"gives scores, not answers .*call scores"):
        next(open_pair_model(bundle_of(RETRIEVAL)).answers(asked))


def test_nlvr2_compares_two_images_in_their_order(said, files):
    for names in (("a.png", "b.jpg"), ("b.jpg", "a.png")):
        images = [part for name in names for part in ("--image", f"photos/{name}")]
        (answer,) = said(NLVR2, "--question", TEXTS[0], *images)
        false, true = wanted(NLVR2, files, TEXTS[0], *names).softmax(-1).tolist()  # label 1 is True
        probabilities = {each["answer"]: each["probability"] for each in answer["answers"]}
        assert probabilities == pytest.approx({"false": false, "true": true}, abs=FP32)
        assert answer["answer"] == max(probabilities, key=probabilities.get)


def test_lines_come_back_in_order_with_their_ids(bundle_of, files, command, tmp_path):
    """More than the bundle takes at once."""
    asked = [{"question_id": 7 + n, "text": text, "image": name} for n, (text, name) in enumerate(zip(TEXTS, NAMES))]
    inputs = lines_of(tmp_path / "x.jsonl", *asked)
    root = ("--image-root", files / "photos", "--outputs", tmp_path / "y.jsonl")
    code, out, err = command("run", bundle_of(VQA), "--inputs", inputs, *root)
    assert (code, out) == (0, ""), err
    answers = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text().splitlines()]
    assert [(each["question"], each["question_id"]) for each in answers] == [(n + 1, n + 7) for n in range(5)]
    for line, answer in zip(asked, answers):
        want = wanted(VQA, files, line["text"], line["image"])
        assert answer["answer"] == WORDS[want.argmax()] and len(answer["answers"]) == 5
        assert answer["probability"] == pytest.approx(want.sigmoid().max().item(), abs=FP32)


def test_retrieval_ranks_a_folder_of_images(said, files):
    """Only files with an image's ending, whatever its case."""
    (found,) = said(RETRIEVAL, "--question", TEXTS[0], "--image", "photos")
    scores = {f"photos/{name}": wanted(RETRIEVAL, files, TEXTS[0], name).item() for name in NAMES}
    assert {each["image"]: each["score"] for each in found["ranking"]} == pytest.approx(scores, abs=FP32)
    assert [each["image"] for each in found["ranking"]] == sorted(scores, key=scores.get, reverse=True)
    (best,) = said(RETRIEVAL, "--question", TEXTS[0], "--image", "photos", "--top", 2)
    assert best["ranking"] == found["ranking"][:2]


def test_retrieval_ranks_texts_for_an_image(said, files, tmp_path):
    """As options, or as lines of a file."""
    texts = TEXTS[:2] + TEXTS[3:4]
    scores = {text: wanted(RETRIEVAL, files, text, "c.webp").item() for text in texts}
    options = [part for text in texts for part in ("--option", text)]
    (found,) = said(RETRIEVAL, "--image", "photos/c.webp", *options)
    assert {each["text"]: each["score"] for each in found["ranking"]} == pytest.approx(scores, abs=FP32)
    assert [each["text"] for each in found["ranking"]] == sorted(scores, key=scores.get, reverse=True)
    (tmp_path / "x.txt").write_text("\ufeff" + "\n\n".join(texts) + "\n", "utf-8")
    lines_of(tmp_path / "x.jsonl", *({"text": text} for text in texts))
    for name in ("x.txt", "x.jsonl"):
        got = said(RETRIEVAL, "--image", "photos/c.webp", "--inputs", tmp_path / name)
        assert [each["score"] for each in got] == pytest.approx([*scores.values()], abs=FP32)


def test_the_tables(bundle_of, files, command, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    monkeypatch.setenv("COLUMNS", "80")
    one = ("--question", TEXTS[0], "--image")
    (tmp_path / "x.txt").write_text("two dogs\na cat\na red frisbee\n")
    shown = {}
    for name, case, arguments in (
        ("answers", VQA, (*one, "photos/a.png", "--top", 2)),
        ("images", RETRIEVAL, (*one, "photos", "--top", 3)),
        ("pairs", RETRIEVAL, ("--image", "photos/a.png", "--inputs", tmp_path / "x.txt", "--top", 2)),
    ):
        code, out, err = command("run", bundle_of(case), *arguments)
        assert code == 0 and "note:" not in err, err
        shown[name] = [line.split() for line in out.splitlines()]
        assert all(len(line) <= 80 for line in out.splitlines())
    assert shown["answers"][1] == ["answer", "probability"] and len(shown["answers"]) == 4
    assert shown["images"][0][1:] == ["best", "3", "of", "5"] and len(shown["images"]) == 5
    assert shown["pairs"][0][1:] == ["best", "2", "of", "3", "pairs"] and len(shown["pairs"]) == 4


def test_images_and_texts_that_come_again_are_read_once_and_few_are_in_memory(bundle_of, files):
    model = open_pair_model(bundle_of(RETRIEVAL))
    asked = Question(question=TEXTS[0], image=(str(files / "photos"),))
    (items,) = model.items([asked])
    batches = [*model.reader.batches(items, 2)]
    assert [(len(each.text_ids), len(each.pixels[0]), len(each)) for each in batches] == [
        (1, 2, 2),
        (1, 2, 2),
        (1, 1, 1),
    ]
    read, real = [], model.reader._read
    model.reader._read = lambda path: read.append(path) or real(path)
    again = [*items[:1], *items[:1], *items[:2], items[1]]
    (first, *_), got = [*model.reader.batches(again, 2)], [*model.scores(again)]
    assert (len(first.pixels[0]), len(first)) == (1, 2)
    assert read == [*items[0].images, *items[1].images] * 2
    assert got[0] == pytest.approx(got[1], abs=FP32)


@pytest.mark.parametrize(
    "case, arguments, said",
    [
        (VQA, ("--question", "x"), "the question has no image, but the model takes 1 (question 1): give --image FILE"),
        (NLVR2, ("--question", "x", "--image", "photos/a.png"), "has 1 image, but the model takes 2 .*--image FILE --image FILE"),
        (VQA, ("--question", "x", "--image", "photos"), "the path is a folder, not a file"),
        (VQA, ("--question", "x", "--image", "photos/none.png"), "there is no such file"),
        (VQA, ("--question", "x", "--option", "y", "--image", "photos/a.png"), "options cannot be given"),
        (VQA, ("--question", "x", "--context", "y", "--image", "photos/a.png"), "the model takes no context"),
        (VQA, ("--question", "x", "--image", "photos/a.png", "--max-new-tokens", 5), "a cross-encoder generates no tokens"),
        (RETRIEVAL, ("--question", "x"), "there is no image .*a folder of images"),
        (RETRIEVAL, ("--question", "x", "--image", "roberta"), "the folder has no image"),
        (RETRIEVAL, ("--question", "x", "--option", "y", "--image", "photos/a.png"), "the options are the texts that are ranked"),
        (RETRIEVAL, ("--option", "x", "--option", "y", "--image", "photos"), "2 texts and 5 images"),
        (RETRIEVAL, ("--image", "photos"), "either 'prompt' or 'question'"),
        (RETRIEVAL, ("--image", "photos/a.png", "--inputs", "own.jsonl"), "an image of its own, beside --image"),
        (RETRIEVAL, ("--image", "photos/a.png", "--inputs", "x.npz"), "arrays have their own images"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_task_is_refused(case, arguments, said, bundle_of, files, refused, monkeypatch):
    monkeypatch.chdir(files)
    lines_of(files / "own.jsonl", {"text": "x", "image": "photos/a.png"})
    np.savez(files / "x.npz", x=np.zeros(1))
    line = refused("run", bundle_of(case), *arguments)
    for part in said.split(" .*"):
        assert part in line, line


def test_a_bundle_without_answers_says_how_to_have_them(files, tmp_path, command, refused):
    options = ("--skip", ",".join(map(str, VQA.skip)), "--text-heads", VQA.text_heads, "--no-verify")
    build_it = ("build", "--ckpt", VQA.file, "--out", tmp_path / "b", *options, "--tokenizer", files / "roberta")
    code, out, _ = command(*build_it)
    assert code == 0 and "note: answers are numbers: build with --labels FILE" in out
    asked = ("--question", TEXTS[0], "--image", files / "photos" / "a.png")
    code, out, err = command("run", tmp_path / "b", *asked)
    number = wanted(VQA, files, TEXTS[0], "a.png").argmax().item()
    assert code == 0 and out.splitlines()[2].split()[0] == str(number) and "build the bundle with --labels FILE" in err
    lines_of(tmp_path / "x.jsonl", {"question": "x", "image": "photos/a.png", "answer": "a dog"})
    said = refused("verify", tmp_path / "b", "--inputs", tmp_path / "x.jsonl")
    assert "no such file" in said
    lines_of(files / "x.jsonl", {"question": "x", "image": "photos/a.png", "answer": "a dog"})
    said = refused("verify", tmp_path / "b", "--inputs", files / "x.jsonl")
    assert "the answer 'a dog' cannot be scored" in said and "--labels FILE" in said
    assert "the same" not in refused(*build_it, "--labels", files / "answers.json")  # another bundle
    code, out, err = command(*build_it, "--labels", files / "answers.json", "--force", "--json")
    assert code == 0 and json.loads(out)["notes"] != [], err
    listed = json.loads(command("inspect", tmp_path / "b", "--json")[1])["files"]
    assert {"labels.json", "vocab.json", "merges.txt"} <= set(listed)


def test_answers_of_another_model_are_refused(files, tmp_path, refused):
    (tmp_path / "few.json").write_text(json.dumps(WORDS[:-1]))
    for case, labels, said in (
        (NLVR2, files / "answers.json", "a model for nlvr2 chooses among no answers of a list"),
        (VQA, tmp_path / "few.json", "the file has 30 answers, but the model 31"),
    ):
        options = ("--skip", "none", "--text-heads", case.text_heads, "--labels", labels, "--dry-run")
        assert said in refused("build", "--ckpt", case.file, "--out", tmp_path / "b", *options)


def accuracy_of(command, bundle: Path, inputs: Path) -> dict:
    code, out, err = command("verify", bundle, "--inputs", inputs, "--json")
    assert code == 0, err
    return json.loads(out)["accuracy"]


def test_verify_scores_vqa(bundle_of, files, command):
    """A third for each of three people who say so."""
    best = [wanted(VQA, files, text, name).argmax().item() for text, name in zip(TEXTS[:3], NAMES)]
    answers = ([WORDS[best[0]].upper(), "x", "y"], WORDS[best[1]], "nothing of the list")
    lines = [{"question": t, "image": f"photos/{n}", "answer": a} for t, n, a in zip(TEXTS, NAMES, answers)]
    inputs = lines_of(files / "vqa.jsonl", *lines, {"question": TEXTS[4], "image": f"photos/{NAMES[0]}"})
    got = accuracy_of(command, bundle_of(VQA), inputs)
    assert (got["metric"], got["questions"], got["agree"]) == ("VQA", 3, {"onnxruntime": 1.0})
    assert got["reference"] == pytest.approx((1 / 3 + 1) / 3) and got["bundle"] == {"onnxruntime": got["reference"]}


def test_verify_scores_nlvr2(bundle_of, files, command, refused):
    pairs = [NAMES[:2], NAMES[1:3], NAMES[3:5]]
    true = [wanted(NLVR2, files, text, *names).argmax().item() == 1 for text, names in zip(TEXTS, pairs)]
    labels = (true[0], str(true[1]), str(not true[2]))
    lines = [
        {"text": t, "image": [f"photos/{n}" for n in names], "label": a} for t, names, a in zip(TEXTS, pairs, labels)
    ]
    got = accuracy_of(command, bundle_of(NLVR2), lines_of(files / "nlvr2.jsonl", *lines))
    assert (got["metric"], got["questions"], got["others"]) == ("true or false", 3, [])
    assert got["reference"] == got["bundle"]["onnxruntime"] == pytest.approx(2 / 3)
    wrong = lines_of(files / "wrong.jsonl", lines[0] | {"label": "yes"})
    assert "the answer 'yes' is not one of the model's: false, true" in refused(
        "verify", bundle_of(NLVR2), "--inputs", wrong
    )


def test_verify_scores_recall_both_ways(bundle_of, files, command, refused):
    """Two texts belong to one image."""
    texts, images = [*TEXTS[:2], TEXTS[3], "a red frisbee"], [NAMES[0], NAMES[1], NAMES[2], NAMES[0]]
    lines = [{"text": text, "image": f"photos/{name}"} for text, name in zip(texts, images)]
    got = accuracy_of(command, bundle_of(RETRIEVAL), lines_of(files / "irtr.jsonl", *lines))
    scores = np.array([[wanted(RETRIEVAL, files, text, name).item() for name in NAMES[:3]] for text in texts])
    own = np.array([[name == image for name in NAMES[:3]] for image in images])
    first = {0: own[np.arange(4), scores.argmax(1)].mean(), 1: own[scores.argmax(0), np.arange(3)].mean()}
    found = {each["metric"]: each for each in (got, *got["others"])}
    assert [*found] == [f"recall@{k} of {what}" for what in ("images", "texts") for k in (1, 5, 10)]
    assert found["recall@1 of images"]["reference"] == pytest.approx(first[0])
    assert found["recall@1 of texts"]["reference"] == pytest.approx(first[1])
    assert found["recall@5 of images"]["reference"] == found["recall@5 of texts"]["bundle"]["onnxruntime"] == 1
    assert got["questions"] == 4 and got["agree"] == {"onnxruntime": 1.0}
    several = lines_of(files / "several.jsonl", {"text": "x", "image": [f"photos/{name}" for name in NAMES]})
    assert "the line has 5 pairs" in refused("verify", bundle_of(RETRIEVAL), "--inputs", several)


@pytest.mark.parametrize("case", [VQA, RETRIEVAL], ids=lambda case: case.name)
def test_an_interrupted_run_goes_on(case, bundle_of, files, tmp_path, command, monkeypatch):
    """To the same bytes: answers of a batch that is not whole come again, and rankings have batches of their own."""
    several = [f"photos/{name}" for name in NAMES]
    lines = [{"text": text, "image": name if case == VQA else several} for text, name in zip(TEXTS, several)]
    asked = ("run", bundle_of(case), "--inputs", lines_of(files / "x.jsonl", *lines), "--outputs")
    assert command(*asked, tmp_path / "whole.jsonl")[0] == 0
    real = run_pair_questions._record

    def stop_at(number: int, *rest: object) -> dict:
        if number == 4:
            raise KeyboardInterrupt
        return real(number, *rest)

    monkeypatch.setattr(run_pair_questions, "_record", stop_at)
    code, _, err = command(*asked, tmp_path / "y.jsonl")
    assert code == 130 and "the first 3 answers are in" in err
    answered = []
    monkeypatch.setattr(
        run_pair_questions, "_record", lambda number, *r: (answered.append(number), real(number, *r))[1]
    )
    assert command(*asked, tmp_path / "y.jsonl", "--resume")[0] == 0
    assert answered == ([3, 4, 5] if case == VQA else [4, 5])
    assert (tmp_path / "y.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_stored_rotation_of_an_image_in_a_folder_is_noted_and_applied(bundle_of, files, tmp_path, command):
    stored = Image.open(files / "photos" / "a.png").convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    (tmp_path / "photos").mkdir()
    stored.save(tmp_path / "photos" / "a.png", exif=exif)
    stored.rotate(180).save(tmp_path / "b.png")
    asked = ("run", bundle_of(RETRIEVAL), "--question", TEXTS[0], "--json", "--image")
    scores = []
    for arguments in ((tmp_path / "photos",), (tmp_path / "photos", "--exif-rotate"), (tmp_path / "b.png",)):
        code, out, err = command(*asked, *arguments)
        assert code == 0 and ("--exif-rotate" in err) == (not scores), err
        scores.append(json.loads(out)["answers"][0]["score"])
    assert scores[1] == scores[2] != scores[0]
