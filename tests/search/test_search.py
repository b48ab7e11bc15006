"""`eas-export search`, from a plain model to a checkpoint that loads."""

import errno
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, llava_golden_case
from PIL import Image
from safetensors.torch import load_file, save_file
from search_cases import OPTIONS

from eas_export.cli.progress import LineProgress
from eas_export.core.errors import UserError
from eas_export.core.plan import make_plan
from eas_export.core.precision import PRECISIONS
from eas_export.core.progress import Progress
from eas_export.families import get_family, load_checkpoint
from eas_export.families.contract import Sources
from eas_export.families.processing.tokenizer import Tokenizer
from eas_export.networks.prune import prune
from eas_export.search import run, search
from eas_export.search.examples import Examples, batch_at
from eas_export.search.folder import load_report, lock, save_report
from eas_export.search.report import SearchReport
from eas_export.search.subnetwork import Supernet, make_batch
from eas_export.system import locked_folder

WORDS = [part for name, value in OPTIONS.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def searched(plain, questions, tmp_path_factory) -> tuple[Path, SearchReport]:
    out = tmp_path_factory.mktemp("searched") / "eas"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "NOTED_EVERY", 1)
        return out, search(plain, questions, out, count=2, **OPTIONS)


def test_the_checkpoint_says_what_was_skipped(searched, plain):
    out, report = searched
    checkpoint = load_checkpoint(Sources(out))
    assert report.skipped == report.bandit.chosen and len(report.skipped) == 2
    assert make_plan(4, checkpoint.evidence.text, "").skipped == report.skipped
    assert checkpoint.config.kept_adapter.rank == 4 and checkpoint.config.skipped_adapter.rank == 8
    keys, before = load_file(out / "model.safetensors"), load_file(plain / "model.safetensors")
    for layer in range(4):
        gone = layer in report.skipped
        held = {
            part
            for part in ("self_attn", "adapter_attn", "replaced_adapter")
            if any(f"layers.{layer}.{part}." in k for k in keys)
        }
        assert held == ({"replaced_adapter"} if gone else {"self_attn", "adapter_attn"})
    assert all(torch.equal(keys[key], tensor) for key, tensor in before.items() if key in keys)
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "search.json",
        "tokenizer.model",
        "vision_tower",
    ]


def test_what_was_written_is_what_was_trained(searched, questions):
    """The report's last loss, from the files alone."""
    out, report = searched
    checkpoint, family = load_checkpoint(Sources(out)), get_family("llava")
    examples = Examples(questions, checkpoint.config, family, Tokenizer(checkpoint.tokenizer, 128))
    plan = make_plan(4, checkpoint.evidence.text, "")
    supernet = Supernet(prune(checkpoint, plan), PRECISIONS["fp32"], examples.limits, torch.device("cpu"))
    held_out = batch_at(0, 24, 24, 0)[:2]
    loss = supernet.loss(report.skipped, make_batch([examples[i] for i in held_out], 0))
    assert report.held_out.tuned == pytest.approx(float(loss.detach()), abs=1e-6)
    assert report.held_out.tuned < report.held_out.untrained
    assert [event.step for event in report.bandit.events] == [4, 6, 8, 10]


def require_same_search(report: SearchReport, out: Path, searched: tuple[Path, SearchReport]) -> None:
    """The very weights, and the same events and losses."""
    same = ("bandit", "skipped", "held_out", "losses")
    assert {name: getattr(report, name) for name in same} == {name: getattr(searched[1], name) for name in same}
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (out, searched[0]))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert not (out / run.STATE).exists()


def saved_steps(out: Path) -> int:
    return int(load_file(out / run.STATE)["done"])


def at_step(number: int, act) -> type[Progress]:
    """A progress that acts when this step's loss is noted: parameters have changed, and nothing of it is saved."""

    class Acts(Progress):
        def note(self, title, values):
            if values["step"] == number:
                act()

    return Acts


def test_it_goes_on_from_the_step_of_the_interruption(searched, plain, questions, tmp_path, monkeypatch):
    """To the same end: after a signal during a step with an event, during a gradient, a loss that is measured, and the writing."""
    monkeypatch.setattr(run, "NOTED_EVERY", 1)
    out = tmp_path / "eas"
    begin = lambda progress=None: search(plain, questions, out, count=2, progress=progress, **OPTIONS)
    with pytest.raises(KeyboardInterrupt) as stopped:
        begin(at_step(9, lambda: signal.raise_signal(signal.SIGINT))())
    assert stopped.value.__notes__ == [f"run the same command again: 9 of 18 steps are saved in {out / run.STATE}"]
    assert saved_steps(out) == 9 and [event.step for event in load_report(out).bandit.events] == [4, 6, 8]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for place, name, steps in (
        (run.Trainer, "backward", 9),
        (run.Run, "_measure", 12),
        (sys.modules["eas_export.families.eas_training"], "_write", 18),
    ):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, interrupted)
            begin()
        assert saved_steps(out) == steps and not (out / "config.json").exists()
    require_same_search(begin(), out, searched)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_second_signal_does_not_wait(plain, questions, tmp_path, monkeypatch):
    """A step that it leaves half done is not saved."""
    monkeypatch.setattr(run, "NOTED_EVERY", 1)
    monkeypatch.setattr(run, "SAVED_EVERY", 0)

    def act():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:
        search(plain, questions, tmp_path / "eas", count=2, progress=at_step(3, act)(), **OPTIONS)
    assert "2 of 18 steps are saved" in stopped.value.__notes__[0] and saved_steps(tmp_path / "eas") == 2


@pytest.mark.parametrize(
    "number, code, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_a_kill_name_the_file_and_the_steps(
    plain, questions, tmp_path, monkeypatch, command, number, code, word
):
    monkeypatch.setattr(run, "NOTED_EVERY", 1)
    monkeypatch.setattr(LineProgress, "note", at_step(2, lambda: signal.raise_signal(number)).note)
    begin = ("search", "--ckpt", plain, "--data", questions, "--out", tmp_path / "eas", "--count", 2, *WORDS)
    found, _, err = command(*begin)
    state = tmp_path / "eas" / run.STATE
    assert (
        found == code
        and f"error: {word}" in err
        and f"run the same command again: 2 of 18 steps are saved in {state}" in err
    )


def test_it_goes_on_where_the_state_was_not_written(searched, plain, questions, tmp_path, monkeypatch):
    """The report is ahead of it then: what it says of later steps is seen once more."""
    save, out = run.Trainer.save, tmp_path / "eas"

    def killed(trainer, path):
        if trainer.done == 9:
            raise KeyboardInterrupt
        save(trainer, path)

    monkeypatch.setattr(run, "SAVED_EVERY", 0)
    monkeypatch.setattr(run, "NOTED_EVERY", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run.Trainer, "save", killed)
        search(plain, questions, out, count=2, **OPTIONS)
    assert saved_steps(out) == 8 and [event.step for event in load_report(out).bandit.events] == [4, 6, 8]
    require_same_search(search(plain, questions, out, count=2, **OPTIONS), out, searched)


def test_it_is_saved_by_the_clock(plain, questions, tmp_path, monkeypatch):
    """A killed search has lost minutes, not hundreds of slow steps."""
    saved, save = [], run.Trainer.save
    monkeypatch.setattr(run.Trainer, "save", lambda trainer, path: saved.append(trainer.done) or save(trainer, path))
    for every, steps in ((180, [3]), (0, [1, 2, 3])):
        monkeypatch.setattr(run, "SAVED_EVERY", every)
        search(plain, questions, tmp_path / str(every), skip="1", **OPTIONS | {"tune_steps": 3})
        assert saved == steps
        saved.clear()


def test_the_same_again_does_nothing_and_another_is_refused(searched, plain, questions):
    out, report = searched
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert search(plain, questions, out, count=2, **OPTIONS) == report
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"the folder has another search.*choose another --out"):
        search(plain, questions, out, count=1, **OPTIONS)


@pytest.mark.parametrize("changed", ["config", "weights", "tower", "image", "answer"])
def test_whatever_it_was_made_from_makes_it_another(searched, plain, questions, tmp_path, changed):
    ckpt, data = shutil.copytree(plain, tmp_path / "llava"), shutil.copytree(questions.parent, tmp_path / "data")
    if changed == "config":
        settings = json.loads((ckpt / "config.json").read_text())
        (ckpt / "config.json").write_text(json.dumps(settings | {"rope_theta": 1e6}))
    elif changed == "image":
        Image.new("RGB", (14, 14)).save(data / "1-0.png")
    elif changed == "answer":
        lines = (data / questions.name).read_text()
        (data / questions.name).write_text(lines.replace("a cat", "a bat"))
    else:
        weights = (ckpt / "vision_tower" if changed == "tower" else ckpt) / "model.safetensors"
        tensors = load_file(weights)
        save_file({key: tensor * 1.5 for key, tensor in tensors.items()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="the folder has another search"):
        search(ckpt, data / questions.name, searched[0], count=2, **OPTIONS)


def test_what_a_killed_search_left_goes(searched, plain, questions, tmp_path):
    """Before anything was written, and when all was."""
    new, ended = tmp_path / "new", shutil.copytree(searched[0], tmp_path / "ended")
    new.mkdir()
    for out in (new, ended):
        (out / ".4711.partial").write_bytes(b"half")
        with lock(out):
            assert not (out / ".4711.partial").exists()
    (ended / run.STATE).write_bytes(b"state")
    assert search(plain, questions, ended, count=2, **OPTIONS) == searched[1]
    assert not (ended / run.STATE).exists()


def test_another_version_is_named(searched, plain, questions, tmp_path):
    out = shutil.copytree(searched[0], tmp_path / "eas")
    save_report(out, searched[1].model_copy(update={"version": "0.0.1"}))
    with pytest.raises(UserError, match=r"the folder has a search by version 0\.0\.1, but this is \d"):
        search(plain, questions, out, count=2, **OPTIONS)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_too_little_memory_is_said_with_what_takes_less(plain, questions, tmp_path, monkeypatch, refused, error):
    def full(*_):
        raise error

    monkeypatch.setattr(run.Trainer, "backward", full)
    said = refused("search", "--ckpt", plain, "--data", questions, "--out", tmp_path / "o", "--count", 2, *WORDS)
    assert "out of memory" in said and "a smaller --batch" in said
    wide = ("--count", 2, "--kept-rank", 10**12)
    said = refused("search", "--ckpt", plain, "--data", questions, "--out", tmp_path / "o", *wide)
    assert "out of memory" in said and "narrower adapters" in said


def test_a_file_system_without_locks_is_no_other_search(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locked_folder.fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"the search's folder cannot be written \(No locks available\)"):
        lock(tmp_path / "o").__enter__()


def test_a_checkpoint_that_has_gone_is_missed(searched, plain, questions, tmp_path):
    out = shutil.copytree(searched[0], tmp_path / "eas")
    (out / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"has ended, but its checkpoint is damaged: the folder has no model.safetensors"
    ):
        search(plain, questions, out, count=2, **OPTIONS)


def test_a_folder_that_cannot_be_gone_on_with_is_refused(searched, plain, questions, tmp_path, refused):
    """Damaged, held by another process, or none."""
    begun = searched[1].model_copy(update={"ended": False})
    for name, report, state in (("report", b"{", None), ("state", begun.model_dump_json().encode(), b"junk")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "search.json").write_bytes(report)
        if state:
            (tmp_path / name / run.STATE).write_bytes(state)
    (tmp_path / "file").write_text("x")

    def said(name: str) -> str:
        out = tmp_path / name
        return refused("search", "--ckpt", plain, "--data", questions, "--out", out, "--count", 2, *WORDS)

    assert "not a search report of this version" in said("report") and "choose another --out" in said("report")
    assert "saved training state does not match" in said("state") and "delete the file to start again" in said("state")
    assert "Not a directory" in said("file") or "is no search" in said("file")
    with lock(tmp_path / "held"):
        assert "another search is running in the folder" in said("held")


def test_a_tower_elsewhere_comes_along(plain, questions, tmp_path):
    """And adapters that are there already are trained further, of their own rank."""
    ckpt = shutil.copytree(plain, tmp_path / "llava")
    (ckpt / "vision_tower").rename(tmp_path / "clip")
    settings = json.loads((ckpt / "config.json").read_text())
    (ckpt / "config.json").write_text(json.dumps(settings | {"mm_vision_tower": "openai/clip"}))
    options = OPTIONS | dict(tune_steps=1)
    search(ckpt, questions, tmp_path / "first", skip="none", vision=tmp_path / "clip", **options)
    search(tmp_path / "first", questions, tmp_path / "second", skip="0", **options | dict(kept_rank=16))
    config = load_checkpoint(Sources(tmp_path / "second")).config
    assert (config.kept_adapter.rank, config.skipped_adapter.rank) == (4, 8)


def test_all_of_them_can_go(plain, questions, tmp_path):
    report = search(plain, questions, tmp_path / "eas", count=4, **OPTIONS)
    assert (
        report.skipped
        == (0, 1, 2, 3)
        == make_plan(4, load_checkpoint(Sources(tmp_path / "eas")).evidence.text, "").skipped
    )


def test_bf16(plain, questions, tmp_path):
    """Adapters stay in float32."""
    report = search(plain, questions, tmp_path / "eas", skip="1", precision="bf16", **OPTIONS)
    key = "model.layers.1.replaced_adapter.conv_A.weight"
    assert load_file(tmp_path / "eas" / "model.safetensors")[key].dtype == torch.float32
    assert report.held_out.tuned < report.held_out.chosen


def test_a_given_list_is_tuned_without_a_search(plain, questions, tmp_path, command):
    out = tmp_path / "eas"
    code, text, err = command(
        "search", "--ckpt", plain, "--data", questions, "--out", out, "--skip", "1,3", *WORDS, "--json"
    )
    report = SearchReport.model_validate_json(text)
    assert code == 0, err
    assert report.skipped == (1, 3) and report.bandit.events == () and report.options.all_steps == 6
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert {event["stage"] for event in events} >= {"tuning", "writing the checkpoint"}
    assert b"</svg>" in (out / "search.svg").read_bytes()


def test_what_it_prints(searched, plain, questions, command, tmp_path):
    out = shutil.copytree(searched[0], tmp_path / "eas")
    code, text, err = command("search", "--ckpt", plain, "--data", questions, "--out", out, "--count", 2, *WORDS)
    assert code == 0, err
    assert "2 of 4" in text and "loss after tuning" in text and "search.svg" in text


def test_mistakes_say_what_to_do(plain, questions, tmp_path, refused):
    def said(*more: object, ckpt: Path = plain, data: Path = questions, out: Path = tmp_path / "out") -> str:
        return refused("search", "--ckpt", ckpt, "--data", data, "--out", out, *more)

    assert "one of --count and --skip" in said()
    assert "one of --count and --skip" in said("--count", 1, "--skip", 2)
    for count in (-1, 0, 5):
        assert f"--count is {count}, out of range 1 to 4" in said("--count", count)
    assert "nothing is trained (search): pass --tune-steps 1" in said("--skip", 1, "--tune-steps", 0)
    assert "candidates is 1" in said("--count", 1, "--candidates", 1) and "batch is 0" in said(
        "--count", 1, "--batch", 0
    )
    assert "skip index 4 is out of range" in said("--skip", 4)
    assert "did you mean paper" in said("--count", 1, "--policy", "papre")
    assert "leaves no event in 10 steps (search): pass a --warm-up below --steps" in said(
        "--count", 1, "--steps", 10, "--warm-up", 10
    )
    assert "search does not support lavin models" in said("--count", 1, ckpt=TINY.folder)
    assert "has no attention left" in said("--count", 1, ckpt=llava_golden_case("half").folder)
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text('{"question": "What?", "answer": "x"}\n{"question": "What?"}\n')
    assert "the question has no answer" in said("--count", 1, data=unlabelled) and "line 2" in said(
        "--count", 1, data=unlabelled
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "the folder exists but is not a search" in said("--count", 1, out=tmp_path / "mine")
    without = tmp_path / "without"
    shutil.copytree(plain, without)
    (without / "tokenizer.model").unlink()
    assert "the checkpoint has no tokenizer" in said("--count", 1, ckpt=without)
    assert "leave none to train on" in said("--count", 1, *WORDS, "--held-out", 0.99)
    assert "kept_rank is 7" in said("--count", 1, "--kept-rank", 7)
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "<image>", "answer": "x"}\n{"prompt": "y", "answer": "x"}\n')
    assert "few.jsonl, line 1" in said("--count", 1, data=few)
    odd = shutil.copytree(plain, tmp_path / "odd")
    tensors = load_file(odd / "model.safetensors")
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"].double()}, odd / "model.safetensors")
    assert "model.norm.weight has dtype torch.float64" in said("--count", 1, ckpt=odd)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("warm_up", [0, 4])
def test_a_loss_that_is_none_ends_it(plain, questions, tmp_path, refused, warm_up):
    """A step's, or an event's."""
    line = refused(
        "search",
        "--ckpt",
        plain,
        "--data",
        questions,
        "--out",
        tmp_path / "out",
        "--count",
        1,
        *WORDS,
        "--learning-rate",
        1e30,
        "--warm-up",
        warm_up,
    )
    assert "the training loss is nan" in line and "--learning-rate" in line
