"""Nothing is lost: killed builds go on, builds that run out of disk say so, and two of them never meet."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import SHAPES, write_checkpoint

from eas_export.bundle import open_bundle
from eas_export.errors import UserError
from eas_export.pipeline import verify
from eas_export.progress import Progress
from eas_export.workplace import workplace

COMMAND = [sys.executable, "-c", "from eas_export.cli.main import main; main()"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A model that is built in a few seconds."""
    shape = replace(SHAPES["demo"], layers=2, skip=(1,), clip_blocks=4)
    return write_checkpoint(tmp_path_factory.mktemp("data") / "checkpoint", shape)


def start(*arguments: object, **how) -> subprocess.Popen:
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, **how)


@pytest.mark.parametrize(
    "signal_, moment, finished",
    [
        (signal.SIGKILL, "reading the checkpoint", []),
        (signal.SIGKILL, "exporting prefill", ["weights.safetensors", "vision.onnx"]),
        (
            signal.SIGKILL,
            "checking files",
            ["weights.safetensors", "vision.onnx", "prefill.onnx", "fold.onnx", "decode.onnx"],
        ),
        (signal.SIGTERM, "exporting prefill", ["weights.safetensors", "vision.onnx"]),
        (signal.SIGINT, "exporting vision", ["weights.safetensors"]),
    ],
)
def test_a_killed_build_does_not_open_and_the_next_one_goes_on(
    checkpoint, tmp_path, command, signal_, moment, finished
):
    out = tmp_path / "o"
    process = start("build", "--ckpt", checkpoint, "--out", out)
    for line in process.stderr:
        if line.startswith(moment):
            break
    process.send_signal(signal_)
    said = process.communicate()[1]
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[signal_]
    assert signal_ == signal.SIGKILL or "goes on from the files that it had finished" in said
    for path in (out, *tmp_path.iterdir(), *tmp_path.glob(".o.partial/*")):
        with pytest.raises(UserError):
            open_bundle(path)
    code, _, err = command("build", "--ckpt", checkpoint, "--out", out)
    assert code == 0, err
    for name in finished:
        assert f"checking {name}: done" in err
        assert f"exporting {name.removesuffix('.onnx')}: done" not in err
    assert ("writing weights" in err) == ("weights.safetensors" not in finished)
    assert [p.name for p in tmp_path.iterdir()] == ["o"]
    assert verify(out, checkpoint, steps=1).ok and not open_bundle(out).damaged_files()


def test_files_may_run_out_of_room_at_any_of_them(checkpoint, tmp_path, command):
    """The system's limit on a file's size (EFBIG) stands for a full disk: the same way out, and no rights are needed."""
    out, messages = tmp_path / "o", []
    for room in (60_000, 700_000, 1_500_000):  # weights are 1.9 MB

        def limit(room=room):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        process = start("build", "--ckpt", checkpoint, "--out", out, "--no-verify", preexec_fn=limit)
        said = process.communicate()[1]
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert process.returncode == 2 and len(lines) == 1 and "Traceback" not in said, said
        messages += lines
        assert not list(tmp_path.iterdir())  # no file was finished: nothing stays
    assert all("the bundle cannot be written (File too large)" in line and "make room" in line for line in messages)
    code, _, err = command("build", "--ckpt", checkpoint, "--out", out, "--no-verify")
    assert code == 0, err
    weights = (out / "weights.safetensors").stat().st_size

    def limit_graphs():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    process = start("build", "--ckpt", checkpoint, "--out", out, "--max-prompt", 99, "--force", preexec_fn=limit_graphs)
    assert "cannot be written" in process.communicate()[1] and process.returncode == 2
    assert open_bundle(out, check=True).manifest.limits.max_prompt == 1024  # what was there is still there
    assert (
        tmp_path / ".o.partial" / "bundle" / "weights.safetensors"
    ).stat().st_size == weights  # taken over, not lost
    code, _, err = command("build", "--ckpt", checkpoint, "--out", out, "--max-prompt", 99, "--force", "--no-verify")
    assert code == 0 and "writing weights" not in err and [p.name for p in tmp_path.iterdir()] == ["o"]


def test_two_builds_into_one_place_do_not_meet(checkpoint, tmp_path, refused):
    out = tmp_path / "o"
    with pytest.raises(KeyboardInterrupt), workplace(out, [], Progress()):
        line = refused("build", "--ckpt", checkpoint, "--out", out)
        assert (
            f"process {os.getpid()} on {os.uname().nodename} is building it at this moment" in line
            and "wait until it is done" in line
        )
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_is_not_touched(checkpoint, tmp_path, refused):
    mine = tmp_path / ".o.partial"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert ".o.partial beside it is in the way" in refused("build", "--ckpt", checkpoint, "--out", tmp_path / "o")
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_second_interruption_does_not_cost_what_the_first_left(tmp_path):
    out = tmp_path / "o"

    def write(path: Path) -> None:
        path.write_text(path.name)

    for interrupted in ("before any file", "after one", "after another"):
        with pytest.raises(KeyboardInterrupt), workplace(out, [], Progress()) as place:
            if interrupted != "before any file":
                place.make("a", "0" * 64, write)
            if interrupted == "after another":
                place.make("b", "1" * 64, write)
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), workplace(out, [], Progress()) as place:
        raise KeyboardInterrupt  # while it looks at the first file, say
    with workplace(out, [], Progress()) as place:
        for name, key in (("b", "1"), ("a", "0")):
            place.make(name, key * 64, lambda path: pytest.fail(f"{path.name} is made again"))
        place.make("b", "2" * 64, write)  # another option decides otherwise
        place.end()
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"] and [p.name for p in tmp_path.iterdir()] == ["o"]


def test_a_list_of_finished_files_that_lies_is_not_believed(checkpoint, tmp_path, command):
    out, home = tmp_path / "o", tmp_path / ".o.partial"
    with pytest.raises(KeyboardInterrupt), workplace(out, [], Progress()) as place:
        place.make("weights.safetensors", "0" * 64, lambda path: path.write_text("x") and None)
        raise KeyboardInterrupt
    assert json.loads((home / "finished.json").read_text())["weights.safetensors"]["bytes"] == 1
    (home / "bundle" / "weights.safetensors").write_text("y")
    made = []
    with pytest.raises(KeyboardInterrupt), workplace(out, [], Progress()) as place:
        place.make("weights.safetensors", "0" * 64, lambda path: made.append(path.write_text("x")))
        raise KeyboardInterrupt
    assert made  # another byte was there
    for damage in ("", "[]", "{", '{"a": 1}'):
        assert home.exists() or not home.mkdir()
        (home / "lock").touch()
        (home / "finished.json").write_text(damage)
        with pytest.raises(KeyboardInterrupt), workplace(out, [], Progress()) as place:
            assert place.records == {}
            raise KeyboardInterrupt


def bundle_like(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    return folder


def test_an_interrupted_swap_keeps_the_old_bundle(tmp_path, monkeypatch):
    out = bundle_like(tmp_path / "o", "old")
    rename = Path.rename

    def interrupted(self, target):
        if self.name == "bundle":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt), workplace(out, [], Progress()) as place:
            (place.folder / "manifest.json").write_text("new")
    assert (out / "manifest.json").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["o"]


def test_what_a_killed_swap_left_is_put_in_order(tmp_path):
    """Killed between the two renames: the next build puts the old bundle back, or removes it where the new one stands."""
    out, home = tmp_path / "o", tmp_path / ".o.partial"
    for stands, wanted in ((False, "old"), (True, "new")):
        bundle_like(home / "old", "old")
        (home / "lock").write_text("1")
        if stands:
            bundle_like(out, "new")
        with pytest.raises(KeyboardInterrupt), workplace(out, [], Progress()):
            assert (out / "manifest.json").read_text() == wanted and not (home / "old").exists()
            raise KeyboardInterrupt
        assert [p.name for p in tmp_path.iterdir()] == ["o"]
        (out / "manifest.json").unlink()
        out.rmdir()
