"""`run` on prompts, questions and files of them."""

import fcntl
import io
import json
import os
import re
import sys
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, golden_case
from PIL import Image

from eas_export import Question, Sampling, UserError, open_model, run
from eas_export.bundle.bundle import open_bundle
from eas_export.cli import run_chat, run_questions
from eas_export.core.limits import Limits
from eas_export.families import get_family
from eas_export.generation import text_model as text
from eas_export.generation.conversation import Conversation, Finish
from eas_export.generation.text_model import TextModel
from eas_export.verify.decoder_samples import read_samples

SET = Path(__file__).parents[2] / "tests" / "tiny" / "prompts" / "questions.jsonl"
WORDS = ("--max-new-tokens", 3, "--json")
PICTURE = SET.parent / "images" / "circle.png"


@pytest.fixture(scope="module", params=["weights", "lowrank"])
def bundle(request, bundle_of):
    return bundle_of(TINY, fold=request.param)


def test_a_prompt_streams_its_answer(bundle, command):
    asked = ("run", bundle.path, "--prompt", "What is it?", "--image", PICTURE, "--max-new-tokens", "12")
    code, text, err = command(*asked)
    assert code == 0, err
    said = json.loads(command(*asked, "--json")[1])["answers"]
    assert len(said) == 1 and said[0]["text"] == text.rstrip("\n") and said[0]["finish"] == "length"
    assert len(said[0]["tokens"]) == 12
    blind = json.loads(command(*asked[:4], "--max-new-tokens", "12", "--json")[1])["answers"]
    assert blind[0]["tokens"] != said[0]["tokens"]


def test_a_question_takes_the_familys_format(bundle, command):
    tail = ("--max-new-tokens", "5", "--json")
    text = "Question: Q?\nContext: C\nOptions: (A) x (B) y\nResponse:"
    options = ("--question", "Q?", "--context", "C", "--option", "x", "--option", "y")
    one, two = command("run", bundle.path, *options, *tail), command("run", bundle.path, "--prompt", text, *tail)
    assert one[0] == 0 and json.loads(one[1])["answers"] == json.loads(two[1])["answers"]


@pytest.mark.parametrize("options", [[], ["--temperature", "1.5", "--top-p", "0.9", "--seed", "4"]])
def test_a_file_answers_as_its_questions_do_one_by_one(bundle_of, tmp_path, command, options):
    """In both modes: batches of eight, or one at a time; also where tokens are drawn."""
    said = {}
    for fold in ("weights", "lowrank"):
        out = tmp_path / f"{fold}.jsonl"
        path = bundle_of(TINY, fold=fold).path
        code, text, err = command("run", path, "--inputs", SET, "--outputs", out, "--max-new-tokens", 6, *options)
        assert (code, text) == (0, ""), err
        said[fold] = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert said["weights"] == said["lowrank"]
    assert [line["question"] for line in said["weights"]] == [1, 2, 3, 4, 5]
    assert not list(tmp_path.glob("*.partial"))
    code, text, err = command("run", path, "--inputs", SET, "--max-new-tokens", 6, *options)
    assert text.splitlines()[0].startswith("[1] ") and "[5] " in text


def test_ids_come_back_with_the_answers(bundle_of, tmp_path, command, refused):
    """The lines of LLaVA's question files, with images in a folder of their own, as its evaluations read the answers."""
    asked = [
        {"question_id": "a/1", "text": "What is it?", "image": "circle.png", "category": "conv"},
        {"question_id": 2, "text": "Why?"},
        {"question": "Why?"},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    path, out = bundle_of(TINY, fold="lowrank").path, tmp_path / "y.jsonl"
    given = ("run", path, "--inputs", tmp_path / "x.jsonl", "--outputs", out, "--max-new-tokens", 3)
    code, _, err = command(*given, "--image-root", PICTURE.parent)
    said = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 0 and [line.get("question_id") for line in said] == ["a/1", 2, None], err
    assert [line.get("prompt") for line in said] == ["What is it?", "Why?", None] and said[1]["text"] == said[2]["text"]
    assert "there is no such file in" in refused(*given) and "line 1)" in refused(*given)
    assert "leave --image-root out" in refused("run", path, "--prompt", "x", "--image-root", tmp_path)


def test_every_command_looks_for_images_where_it_is_told(bundle_of, plain, tmp_path, refused):
    """They are found in one folder and missed in another."""
    path, file = bundle_of(TINY, fold="lowrank").path, tmp_path / "x.jsonl"
    file.write_text(json.dumps({"question": "x", "image": PICTURE.name, "answer": "y"}) + "\n")
    (tmp_path / "nowhere").mkdir()
    trained = ("search", "--ckpt", plain, "--out", tmp_path / "o", "--count", 1, "--data", file)
    for asked in (("run", path, "--inputs", file), ("verify", path, "--inputs", file), trained):
        missed = refused(*asked, "--image-root", tmp_path / "nowhere")
        assert f"image {PICTURE.name!r}: there is no such file in {tmp_path / 'nowhere'}" in missed
        assert "there is no such folder" in refused(*asked, "--image-root", tmp_path / "none")
    samples = read_samples(open_bundle(path), file, 2, longest=False, image_root=PICTURE.parent)
    assert samples.prompts["question 1"].pixel_values is not None


def test_options_that_would_do_nothing_are_refused(bundle_of, tmp_path, refused):
    path, texts, arrays = bundle_of(TINY, fold="lowrank").path, tmp_path / "x.txt", SET.parent / "token_ids.npz"
    texts.write_text("x")
    root = ("--image-root", tmp_path)
    for asked in (
        ("verify", path),
        ("verify", path, "--inputs", arrays),
        ("run", path, "--inputs", arrays),
        ("run", path, "--inputs", texts, "--image", PICTURE),
    ):
        assert "leave --image-root out" in refused(*asked, *root)
    assert "leave --exif-rotate out" in refused("run", path, "--inputs", arrays, "--exif-rotate")


def test_a_rotation_is_noted_and_applied_where_asked_for(bundle_of, tmp_path, command):
    path, exif = bundle_of(TINY, fold="lowrank").path, Image.Exif()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "stored.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1).copy()).save(tmp_path / "upright.png")

    def ask(name: str, *options: str) -> tuple[str, str]:
        asked = ("run", path, "--prompt", "What?", "--image", tmp_path / name, *options)
        code, _, err = command(*asked, "--max-new-tokens", 8, "--outputs", tmp_path / "y.jsonl")
        assert code == 0, err
        return (tmp_path / "y.jsonl").read_text(), err

    (as_stored, noted), (turned, err), (upright, _) = (
        ask("stored.png"),
        ask("stored.png", "--exif-rotate"),
        ask("upright.png"),
    )
    assert as_stored != turned == upright
    assert "stored.png is read as stored, without the rotation" in noted and "stored.png" not in err


def test_prompts_come_from_standard_input(bundle_of, command, refused, monkeypatch):
    path = bundle_of(TINY, fold="lowrank").path

    def send(sent: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))

    def texts(*asked: object) -> list[str]:
        return [each["text"] for each in json.loads(command("run", path, *asked, *WORDS)[1])["answers"]]

    typed = texts("--prompt", "Why\nso?")
    send(b"Why\nso?\r\n")
    assert texts("--prompt", "-") == typed
    send(b'{"prompt": "Why\\nso?"}\n' * 2)
    assert texts("--inputs", "-") == typed * 2
    send(b"\xff")
    assert "not valid Unicode" in refused("run", path, "--question", "-")


def test_a_chat_goes_on_and_starts_again(bundle_of, command, refused, monkeypatch):
    """Lines that are piped in get what the same turns get from Python, and mistakes end nothing."""
    path = bundle_of(TINY, fold="lowrank").path
    model, most = open_model(path), 6

    def said(first: Question, *turns: str) -> list[str]:
        conversation = model.start(first)
        texts = []
        for turn in (None, *turns):
            if turn:
                model.ask(conversation, [turn])
            steps = [*model.stream(conversation, most)]
            texts.append("".join(text for step in steps for _, text in step) + "\n")
        return texts

    seen = Question(question="What is it?", image=PICTURE)
    lines = [
        "Why?",
        "",
        "And now?",
        "/reset",
        "Why?",
        f"/image {PICTURE}",
        "What is it?",
        "Why?",
        "/reset",
        "What is it?",
    ]
    lines += ["/help", "/image absent.png", "Why?", "/image", "word " * 1000, "Why?"]
    want = [*said(Question(question="Why?"), "And now?"), said(Question(question="Why?"))[0]]
    want += [*said(seen, "Why?"), *said(seen, "Why?"), want[0]]  # an /image that is not there changes nothing
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    code, text, err = command("run", path, "--chat", "--max-new-tokens", most)
    assert code == 0 and text == "".join(want) and want[0] != want[3], err
    assert "answer: ended by length (--max-new-tokens)" in err and "tokens per second" not in err
    for told in (
        "there is no command /help",
        "there is no such file (absent.png)",
        "takes 1024 (question 1)",
    ):
        assert told in err
    for option in (("--inputs", SET), ("--outputs", "y.jsonl"), ("--prompt", "x"), ("--option", "x"), ("--resume",)):
        assert f"leave out {option[0]}, or --chat" in refused("run", path, "--chat", *option)
    assert "leave out --json, or --chat" in refused("run", path, "--chat")


def test_a_chat_says_when_the_bundle_is_full(bundle_of, command, monkeypatch):
    """A turn that does not fit is not fed: a shorter one is answered, until none fits."""
    model = open_model(bundle_of(TINY, fold="lowrank"))
    small = TextModel(replace(model.runtime, limits=Limits(max_prompt=80, max_tokens=160)), model.tokenizer)
    monkeypatch.setattr(run_chat, "open_model", lambda *given: small)
    lines = ["Who?", "word " * 30, *["Why?"] * 9, "/reset", "Who?"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    code, text, err = command("run", bundle_of(TINY, fold="lowrank").path, "--chat", "--max-new-tokens", 40)
    (alone,) = small.replies("Who?", 40)
    assert code == 0 and text.startswith(f"{alone.text}\n") and text.endswith(f"\n{alone.text}\n")
    full = r"the conversation is full: (\d+) tokens of prompt and answer, the bundle takes 160 \(chat\): type /reset"
    first, *others = map(int, re.findall(full, err))
    assert first > others[0] > 160 and len(set(others)) == 1 and "ended by limit (the build's --max-tokens)" in err


def test_a_turn_is_refused_for_what_it_is():
    """A place for an image, which only a first prompt has, is no lack of room."""
    turn = get_family("llava").prompts.next_turn
    with pytest.raises(
        UserError, match=r"^image placeholders in a later turn \(<image>\): .* \(in a chat: /image FILE\)"
    ):
        run_chat._go_on(lambda _, lines: turn(Question(question=lines[0])), None, "And <image>?")


def test_a_chat_takes_names_with_spaces_and_notes_rotations(bundle_of, tmp_path, command, monkeypatch):
    exif, path = Image.Exif(), bundle_of(TINY, fold="lowrank").path
    exif[0x0112] = 6
    for name in ("my cat.png", "it's.png"):
        Image.open(PICTURE).save(tmp_path / name, exif=exif)
    sent = f"/image {tmp_path}/it's.png\n/image 'x' absent's.png\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent.encode())))
    code, _, err = command("run", path, "--chat", "--image", tmp_path / "my cat.png")
    assert code == 0 and all(f"{name} is read as stored" in err for name in ("my cat.png", "it's.png"))
    assert """a quote in "'x' absent's.png" is not closed""" in err
    monkeypatch.chdir(tmp_path)
    assert [run_chat._names(each) for each in ("my cat.png", "'my cat.png' it\\'s.png", "a b")] == [
        ["my cat.png"],
        ["my cat.png", "it's.png"],
        ["a", "b"],
    ]
    assert run_chat._names() == []


@pytest.mark.parametrize("asked", [("--prompt", "-"), ("--question", "-"), ("--inputs", "-"), ("--chat",)])
def test_a_closed_standard_input_is_said(asked, bundle_of, command, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = command("run", bundle_of(TINY, fold="lowrank").path, *asked)
    assert code == 2 and "error: standard input is closed" in err


def test_a_bundle_that_is_not_there_is_said_before_anything_else(refused):
    assert refused("run", "nothere").startswith("error: there is no such file or folder (nothere)")


@pytest.mark.parametrize("sent", [b"", b"\n"])
def test_an_empty_standard_input_asks_nothing(sent, bundle_of, refused, monkeypatch):
    for option in ("--prompt", "--question"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))
        assert "standard input is empty" in refused("run", bundle_of(TINY, fold="lowrank").path, option, "-")


def test_a_turn_follows_the_end_of_the_answer_before(bundle_of):
    """Whichever ended it; the last token, which was chosen and not fed, is fed before, unless it is the end."""
    model = open_model(bundle_of(TINY, fold="lowrank"))
    turn = [2, *model.tokenizer.encode("Question: Why?\nContext: N/A\nOptions: \nResponse:")]
    for finish, fed in ((Finish.LENGTH, 1), (Finish.EOS, 0)):
        conversation = model.start("Who?")
        (step,) = model.stream(conversation, 1)
        conversation.finish[0] = finish
        last = [step[0][0].id][:fed]
        before, other = conversation.lengths.clone(), model.start("Who?")
        model.ask(conversation, ["Why?"])
        other.extend([[*last, *turn]])
        assert conversation.lengths.equal(before + fed + len(turn)) and conversation.logits.equal(other.logits)
    with pytest.raises(UserError, match="only be in the first prompt"):
        model.ask(conversation, [Question(question="x", image=PICTURE)])


def test_it_says_why_answers_ended_and_how_fast_they_came(bundle_of, tmp_path, command):
    """On standard error: what is piped on is the answers alone."""
    path, file = bundle_of(TINY, fold="lowrank").path, tmp_path / "x.jsonl"
    rate = r"tokens per second [\d.e+]+$"
    asked = ("run", path, "--prompt", "x", "--max-new-tokens", 5)
    _, text, err = command(*asked)
    assert (
        re.search(rf"^answer: ended by length \(--max-new-tokens\), tokens 5, {rate}", err, re.M)
        and "tokens" not in text
    )
    _, text, err = command(*asked, "--json")
    note = json.loads(err.splitlines()[-1])
    assert set(json.loads(text)) == {"answers", "outputs", "backend"} and (note["stage"], note["tokens"]) == (
        "answer",
        5,
    )
    file.write_text('{"prompt": "x"}\n' * 8)
    code, text, err = command("run", path, "--inputs", file, "--temperature", 6, "--max-new-tokens", 30, "--json")
    answers = json.loads(text)["answers"]
    ends = Counter(each["finish"] for each in answers)
    note = json.loads(err.splitlines()[-1])
    assert code == 0 and len(ends) == 2 and note["tokens"] == sum(len(each["tokens"]) for each in answers)
    assert (note["ended by eos"], note["ended by length (--max-new-tokens)"]) == (ends["eos"], ends["length"])


def test_a_text_is_a_question(bundle_of):
    path = bundle_of(TINY, fold="lowrank").path
    model, question = open_model(path), Question(question="Why?")
    (want,) = model.replies([question], 4)
    assert [*model.replies("Why?", 4)] == [*model.replies(question, 4)] == [want]
    assert [*model.replies(["Why?", question], 4)] == [want, want]
    assert run(path, "Why?", 4) == run(path, [question], 4) == [want]
    assert model.start("Why?").lengths.tolist() == model.start(question).lengths.tolist()
    assert (
        Question(question="x", image=PICTURE).image == Question(question="x", image=[PICTURE]).image == (str(PICTURE),)
    )


def test_what_does_not_fit_is_named_by_its_line(bundle_of, tmp_path, refused):
    path, file = bundle_of(TINY, fold="lowrank").path, tmp_path / "x.jsonl"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for line, said in (
        ({"prompt": "word " * 1000}, "the bundle takes 1024"),
        ({"prompt": "x", "image": ["a.png", "a.png"]}, "give at most one image per prompt: LaVIN takes no more"),
    ):
        file.write_text('{"prompt": "x"}\n\n' + json.dumps(line) + "\n")
        for verb in ("run", "verify"):
            message = refused(verb, path, "--inputs", file)
            assert said in message and f"({file}, line 3" in message


def test_outputs_follow_a_link(bundle_of, tmp_path, command):
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    target.write_text("old")
    link.symlink_to(target)
    code = command("run", bundle_of(TINY).path, "--prompt", "x", "--max-new-tokens", 2, "--outputs", link)[0]
    assert code == 0 and link.is_symlink() and json.loads(target.read_text())["question"] == 1


def test_more_questions_than_a_batch_takes(bundle_of):
    model = open_model(bundle_of(TINY, fold="lowrank"))
    questions = [Question(prompt=f"Number {i}?" * (1 + i % 3)) for i in range(11)]  # 8 and 3
    sampling = Sampling(temperature=1.0, seed=3)
    assert len(list(model.replies(questions, 4))) == 11
    drawn = list(model.replies(questions, 4, sampling))
    pairs = TextModel(replace(model.runtime, limits=Limits(max_batch=2)), model.tokenizer)
    assert list(pairs.replies(questions, 4, sampling)) == drawn


def test_a_conversation_in_text(bundle_of):
    model = open_model(bundle_of(TINY, fold="lowrank").path)
    conversation = model.start([Question(prompt="One."), Question(prompt="Two.", image=str(PICTURE))])
    router = conversation.state["router"].clone()
    parts = [step for step in model.stream(conversation, 3)]
    lengths = conversation.lengths.tolist()
    model.extend(conversation, ["And now?", "Why?"])
    heard = [len(model.tokenizer.encode(turn)) + 1 for turn in ("And now?", "Why?")]  # and the token that was pending
    assert conversation.lengths.tolist() == [length + count for length, count in zip(lengths, heard)]
    more = [step for step in model.stream(conversation, 3)]
    assert conversation.state["router"].equal(router)
    assert len(parts) == len(more) == 3
    spoken = "".join(text for step in parts for token, text in step if token.row == 1)
    assert spoken == model.tokenizer.decode([token.id for step in parts for token, _ in step if token.row == 1])


def test_a_row_that_says_the_end_token_ends(bundle_of, tmp_path, command):
    """The end token is the tokenizer's: a drawn answer of the random model meets it sooner or later."""
    out = tmp_path / "y.npz"
    np.savez(tmp_path / "x.npz", input_ids=np.arange(3, 19).reshape(8, 2))
    path = bundle_of(TINY, fold="lowrank").path
    drawn = ("--temperature", "20", "--max-new-tokens", "150", "--json")
    code, text, _ = command("run", path, "--inputs", tmp_path / "x.npz", "--outputs", out, *drawn)
    said, tokens = json.loads(text), np.load(out)["tokens"]
    assert code == 0 and "eos" in said["finish"]
    for row, (ids, finish) in enumerate(zip(said["tokens"], said["finish"])):
        assert (ids[-1] == 2) == (finish == "eos") and 2 not in ids[:-1]
        assert tokens[: len(ids), row].tolist() == ids and (tokens[len(ids) :, row] == -1).all()


DRAWN = ("--temperature", "6", "--max-new-tokens", "100")


def test_answers_in_text_end_at_the_end_token(bundle_of, command):
    """StreamedNetwork or as JSON, drawn with the same seed: one text, and the end token is silent in it."""
    path = bundle_of(TINY, fold="lowrank").path
    for seed in range(50):
        asked = ("run", path, "--prompt", "x", *DRAWN, "--seed", seed)
        said = json.loads(command(*asked, "--json")[1])["answers"][0]
        if said["finish"] == "eos":
            break
    assert said["finish"] == "eos" and said["tokens"][-1] == 2 and len(said["tokens"]) < 100
    assert command(*asked)[1] == said["text"] + "\n"
    other = json.loads(command(*asked[:-1], seed + 1, "--json")[1])["answers"][0]
    assert other["tokens"] != said["tokens"]


def test_a_long_question_is_named_before_anything_is_answered(bundle_of, monkeypatch):
    model = open_model(bundle_of(TINY))
    questions = [Question(prompt="short"), Question(prompt="word " * 1000)]
    monkeypatch.setattr(text, "Conversation", lambda *arguments: pytest.fail("something was generated"))
    with pytest.raises(UserError, match=r"the bundle takes 1024 \(question 2\)"):
        next(model.replies(questions))
    with pytest.raises(UserError, match=r"\(question 9\)"):
        model.start(questions[1:], first=9)


def test_run_says_what_is_wrong_with_a_question(bundle_of, tmp_path, refused):
    path = bundle_of(TINY, fold="lowrank").path
    assert "there is no question, prompt or --inputs file" in refused("run", path)
    assert "both --inputs and a question" in refused("run", path, "--inputs", SET, "--prompt", "x")
    assert "go with question" in refused("run", path, "--prompt", "x", "--option", "y")
    assert "needs either 'prompt' or 'question'" in refused("run", path, "--image", PICTURE)
    both = refused("run", path, "--prompt", "x", "--question", "y")
    assert "needs either 'prompt' or 'question'" in both and "): give one of them" in both
    assert "not an image of a known format" in refused("run", path, "--prompt", "x", "--image", SET)
    assert "no such file" in refused("run", path, "--prompt", "x", "--image", tmp_path / "absent.png")
    assert "without a temperature" in refused("run", path, "--prompt", "x", "--top-p", "0.5")
    assert "temperature is -1.0" in refused("run", path, "--prompt", "x", "--temperature", "-1")
    assert "top_p is 1.5" in refused("run", path, "--prompt", "x", "--temperature", "1", "--top-p", "1.5")
    long = refused("run", path, "--prompt", "word " * 1000)
    assert "prompt tokens, the bundle takes 1024 (question 1)" in long and "--max-prompt" in long
    assert "not valid Unicode" in refused("run", path, "--prompt", "a\udcff")
    assert "options is (" in refused("run", path, "--question", "x", *["--option", "y"] * 27)
    asked = ("run", path, "--prompt", "x")
    assert "give a name that ends in .jsonl" in refused(*asked, "--outputs", tmp_path / "y.npz")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    assert "cannot be written" in refused(*asked, "--outputs", tmp_path / "circle.jsonl")
    assert "not a regular file" in refused(*asked, "--outputs", tmp_path / "pipe.jsonl")
    (tmp_path / "x.jsonl").write_text('{"prompt": "x"}\n')
    assert "cannot be written" in refused(*asked, "--outputs", tmp_path / ("y" * 300 + ".jsonl"))
    assert "would replace the inputs" in refused(
        "run", path, "--inputs", tmp_path / "x.jsonl", "--outputs", tmp_path / "x.jsonl"
    )
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "x.jsonl")
    assert "would replace the inputs" in refused(
        "run", path, "--inputs", tmp_path / "x.jsonl", "--outputs", tmp_path / "link.jsonl"
    )
    (tmp_path / "x.json").write_text('{"prompt": "x"}\n')
    assert "questions as .jsonl" in refused("run", path, "--inputs", tmp_path / "x.json")
    plain = bundle_of(golden_case("first")).path
    assert "has no tokenizer" in refused("run", plain, "--prompt", "x")


def test_answers_before_a_failure_are_kept(bundle_of, tmp_path, command):
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    lines = [{"prompt": "a", "image": "good.png"}, {"prompt": "b", "image": "bad.png"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "y.jsonl"
    path = bundle_of(TINY).path  # one question at a time
    code, _, err = command("run", path, "--inputs", tmp_path / "x.jsonl", "--outputs", out, "--max-new-tokens", 3)
    assert code == 2 and "bad.png" in err and not out.exists()
    (partial,) = tmp_path.glob("y.jsonl.*.partial")
    assert f"the first 1 answers are in {partial}" in err and json.loads(partial.read_text())["question"] == 1
    code, _, err = command("run", path, "--inputs", tmp_path / "x.jsonl", "--outputs", out)
    assert code == 2 and "of an earlier run still exists: of another bundle" in err and partial.exists()
    partial.unlink()
    code, _, err = command("run", path, "--prompt", "word " * 1000, "--outputs", out)
    assert code == 2 and not list(tmp_path.glob("y*"))  # no answer, no file


def test_an_interrupted_run_goes_on(bundle_of, tmp_path, command, refused, monkeypatch):
    """With the same bytes as one that was not interrupted, wherever it was: a batch that is not whole is answered again."""
    file, out, whole = tmp_path / "x.jsonl", tmp_path / "y.jsonl", tmp_path / "whole.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Number {n}?" * (1 + n % 3)}) + "\n" for n in range(11)))
    path, batch = bundle_of(TINY, fold="lowrank").path, 8
    asked = ("run", path, "--inputs", file, "--max-new-tokens", 4, "--temperature", 2)
    assert command(*asked, "--outputs", whole)[0] == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    answered, written = [], 9

    def stop_at(number: int) -> None:
        answered.append(number)
        if len(answered) == written + 1:
            raise KeyboardInterrupt

    real = run_questions._record
    monkeypatch.setattr(run_questions, "_record", lambda number, *rest: (stop_at(number), real(number, *rest))[1])
    code, _, err = command(*asked, "--outputs", out)
    (partial,) = tmp_path.glob("y.jsonl.*.partial")
    assert (
        code == 130 and f"the first 9 answers are in {partial}" in err and partial.read_bytes() == b"".join(lines[:9])
    )
    assert "go on with --resume" in refused(*asked, "--outputs", out)
    assert "other inputs or other options" in refused(*asked, "--seed", 1, "--outputs", out, "--resume")
    with open(partial, "ab") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert "another run writes this file" in refused(*asked, "--outputs", out, "--resume")
    written = 99
    for cut in (
        sum(map(len, lines[:9])),
        sum(map(len, lines[:9])) + 5,
        sum(map(len, lines[:8])) - 3,
    ):  # killed inside a line
        partial.write_bytes(whole.read_bytes()[:cut])
        answered.clear()
        assert command(*asked, "--outputs", out, "--resume")[0] == 0
        there = sum(sum(map(len, lines[: n + 1])) <= cut for n in range(len(lines)))
        assert answered[0] == there // batch * batch + 1
        assert out.read_bytes() == whole.read_bytes() and not partial.exists()
        out.unlink()
    more = [line.replace(b'"question": 1,', b'"question": %d,' % n) for n, line in enumerate(lines[:1] * 16, start=1)]
    broken = lines[0].replace(b'"text": "', b'"text": "\xff')
    for damaged in (
        b"".join([broken, *lines[1:8]]),
        b'{"question": 2}\n' * 8,
        b"".join(b'{"question": %d}\n' % n for n in range(1, 9)),
        b"".join(more),
    ):
        partial.write_bytes(damaged)
        assert "the partial output is damaged" in refused(*asked, "--outputs", out, "--resume") and partial.exists()
    partial.unlink()
    assert (
        command(*asked, "--outputs", out, "--resume")[0] == 0 and out.read_bytes() == whole.read_bytes()
    )  # nothing to resume
    assert "leave --resume out" in refused(*asked, "--resume")


def test_a_repaired_image_goes_on_and_a_changed_one_does_not(bundle_of, tmp_path, command, refused):
    """Only the images of answers that stay have to be the same."""
    file, out, whole = tmp_path / "x.jsonl", tmp_path / "y.jsonl", tmp_path / "whole.jsonl"
    images = [tmp_path / f"{number}.png" for number in range(2)]
    for image in images:
        image.write_bytes(PICTURE.read_bytes())
    file.write_text("".join(json.dumps({"prompt": "\u00e9?", "image": image.name}) + "\n" for image in images))
    asked = ("run", bundle_of(TINY).path, "--inputs", file, "--max-new-tokens", 4)  # one at a time
    assert command(*asked, "--outputs", whole)[0] == 0 and b"images" not in whole.read_bytes()
    images[1].write_bytes(PICTURE.read_bytes()[:100])
    code, _, err = command(*asked, "--outputs", out)
    assert code == 2 and "the first 1 answers are in" in err
    images[1].write_bytes(PICTURE.read_bytes())
    Image.new("RGB", (9, 9)).save(images[0])
    said = refused(*asked, "--outputs", out, "--resume")
    assert f"an image of question 1 has changed since it was answered: {images[0]} (" in said
    images[0].write_bytes(PICTURE.read_bytes())
    assert command(*asked, "--outputs", out, "--resume")[0] == 0 and out.read_bytes() == whole.read_bytes()
    assert not [*tmp_path.glob("*.partial")]


def test_a_batch_is_gone_before_the_next_is_read(bundle_of, monkeypatch):
    """A conversation at 7B holds gigabytes of folded weights."""
    alive, most = weakref.WeakSet(), []

    class Counted(Conversation):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(text, "Conversation", Counted)
    model = open_model(bundle_of(TINY))
    assert len(list(model.replies([Question(prompt="x")] * 3, 2))) == len(most) == 3 and max(most) == 1
    with pytest.raises(UserError, match="there is no question"):
        model.start([])


def test_verify_takes_questions(bundle_of, command):
    code, out, err = command("verify", bundle_of(TINY, fold="lowrank").path, "--inputs", SET, "--json")
    cases = json.loads(out)["steps"][-1]["cases"]
    assert code == 0 and list(cases) == [*(f"question {i}" for i in range(1, 6)), "1 to 5 in one batch"], err


def test_verify_takes_questions_near_the_limit(bundle_of, tmp_path, command):
    lines = [{"prompt": "a" * length} for length in (5, 960)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = bundle_of(TINY).path
    limits = Limits(max_prompt=1024, max_tokens=1026)
    opened = open_bundle(path)
    small = replace(opened, manifest=opened.manifest.model_copy(update={"limits": limits}))
    samples = read_samples(small, tmp_path / "x.jsonl", 200, longest=True)
    longest = max(int(prompt.prompt_lengths[0]) for prompt in samples.prompts.values())
    assert 826 < longest <= 1024 and {len(fed) for fed in samples.forced.values()} == {1026 - longest}
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "b " * 1500}) + "\n")
    code, _, err = command("verify", path, "--inputs", tmp_path / "x.jsonl")
    assert code == 2 and "--max-prompt" in err and "x.jsonl, line 1)" in err


def test_the_bundles_tokenizer_is_the_checkpoints(bundle):
    assert "tokenizer.model" in open_bundle(bundle.path).manifest.files
    assert (bundle.path / "tokenizer.model").read_bytes() == (TINY.folder / "weights/tokenizer.model").read_bytes()
