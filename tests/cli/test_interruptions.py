"""Nothing is lost: killed builds go on, builds that run out of disk say so, and two of them never meet."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import raise_signal

import pytest
from synthetic import SHAPES, write_checkpoint

from eas_export.build.workspace import lock, workspace
from eas_export.bundle.bundle import open_bundle
from eas_export.cli.main import LazyGroup
from eas_export.core.errors import UserError
from eas_export.core.progress import Progress
from eas_export.pipeline import build, verify

COMMAND = [sys.executable, "-c", "from eas_export.cli.main import main; main()"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A model that is built in a few seconds."""
    shape = replace(SHAPES["demo"], layers=2, skip=(1,), clip_blocks=4)
    return write_checkpoint(tmp_path_factory.mktemp("data") / "checkpoint", shape)


@contextmanager
def making(out: Path, force: bool = True):
    with lock(out) as home, workspace(home, out, force, [], Progress()) as place:
        yield place


def start(*arguments: object, **how) -> subprocess.Popen:
    """A process that hears Ctrl-C, also where these tests run in the background and do not."""
    how = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} | how
    how |= {
        "env": dict(os.environ)
    }  # without the COLUMNS that readline, which pytest imports, sets behind Python's back
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
    kept = (
        f"run the same command again: it reuses what is finished in {tmp_path / '.o.partial'} ({', '.join(finished)})"
    )
    assert signal_ == signal.SIGKILL or said.rstrip().endswith(kept)
    for path in (out, *tmp_path.iterdir(), *tmp_path.glob(".o.partial/*")):
        with pytest.raises(UserError):
            open_bundle(path)
    code, _, err = command("build", "--ckpt", checkpoint, "--out", out, "--no-verify")
    assert code == 0, err
    for name in finished:
        assert f"checking {name}: done" in err
        assert f"exporting {name.removesuffix('.onnx')}: done" not in err
    assert ("writing weights" in err) == ("weights.safetensors" not in finished)
    assert [p.name for p in tmp_path.iterdir()] == ["o"]
    assert verify(out, checkpoint, steps=1).ok and not open_bundle(out).damaged_files()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["verify", "inspect", "check", "bench", "run", "build", "doctor"])
def test_a_command_with_nothing_to_resume_says_so(name, number, code, monkeypatch, command):
    """Also a build that is stopped before it finished a file."""
    monkeypatch.setattr(LazyGroup, "invoke", lambda *_: raise_signal(number))
    found, _, err = command(name)
    assert found == code and err.rstrip().endswith(
        f"run the same command again: eas-export {name} kept nothing to resume from"
    )


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
    with pytest.raises(KeyboardInterrupt), making(out):
        line = refused("build", "--ckpt", checkpoint, "--out", out)
        assert (
            f"process {os.getpid()} on {os.uname().nodename} is building this bundle" in line
            and "wait until it is done" in line
        )
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_is_not_touched(checkpoint, tmp_path, refused):
    mine = tmp_path / ".o.partial"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert ".o.partial is in the way" in refused("build", "--ckpt", checkpoint, "--out", tmp_path / "o")
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_second_interruption_does_not_cost_what_the_first_left(tmp_path):
    out = tmp_path / "o"

    def write(path: Path) -> None:
        path.write_text(path.name)

    for interrupted in ("before any file", "after one", "after another"):
        with pytest.raises(KeyboardInterrupt), making(out) as place:
            if interrupted != "before any file":
                place.make("a", "0" * 64, write)
            if interrupted == "after another":
                place.make("b", "1" * 64, write)
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), making(out) as place:
        raise KeyboardInterrupt  # while it looks at the first file, say
    with making(out) as place:
        for name, key in (("b", "1"), ("a", "0")):
            place.make(name, key * 64, lambda path: pytest.fail(f"{path.name} is made again"))
        place.make("b", "2" * 64, write)  # another option decides otherwise
        place.end()
        (place.folder / "manifest.json").write_text("{}")
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "manifest.json"] and [
        p.name for p in tmp_path.iterdir()
    ] == ["o"]


def test_a_list_of_finished_files_that_lies_is_not_believed(checkpoint, tmp_path, command):
    out, home = tmp_path / "o", tmp_path / ".o.partial"
    with pytest.raises(KeyboardInterrupt), making(out) as place:
        place.make("weights.safetensors", "0" * 64, lambda path: path.write_text("x") and None)
        raise KeyboardInterrupt
    assert json.loads((home / "finished.json").read_text())["weights.safetensors"]["bytes"] == 1
    (home / "bundle" / "weights.safetensors").write_text("y")
    made = []
    with pytest.raises(KeyboardInterrupt), making(out) as place:
        place.make("weights.safetensors", "0" * 64, lambda path: made.append(path.write_text("x")))
        raise KeyboardInterrupt
    assert made  # another byte was there
    for damage in ("", "[]", "{", '{"a": 1}'):
        assert home.exists() or not home.mkdir()
        (home / "lock").touch()
        (home / "finished.json").write_text(damage)
        with pytest.raises(KeyboardInterrupt), making(out) as place:
            assert place.records == {}
            raise KeyboardInterrupt


def bundle_like(folder: Path, title: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"schema_version": title, "graphs": {}, "files": {}}))
    return folder


def title_of(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["schema_version"]


def test_an_interrupted_swap_keeps_the_old_bundle(tmp_path, monkeypatch):
    out = bundle_like(tmp_path / "o", "old")
    rename = Path.rename

    def interrupted(self, target):
        if self.name == "bundle":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt), making(out) as place:
            bundle_like(place.folder / "x", "new")
            (place.folder / "x" / "manifest.json").rename(place.folder / "manifest.json")
    assert title_of(out) == "old" and [p.name for p in tmp_path.iterdir()] == ["o"]


def test_what_a_killed_swap_left_is_put_in_order(tmp_path):
    """Killed between the two renames: the next build puts the old bundle back, or removes it where the new one stands."""
    out, home = tmp_path / "o", tmp_path / ".o.partial"
    for stands, wanted in ((False, "old"), (True, "new")):
        bundle_like(home / "old", "old")
        (home / "lock").write_text("1")
        if stands:
            bundle_like(out, "new")
        with pytest.raises(KeyboardInterrupt), making(out):
            assert title_of(out) == wanted and not (home / "old").exists()
            raise KeyboardInterrupt
        assert [p.name for p in tmp_path.iterdir()] == ["o"]
        (out / "manifest.json").unlink()
        out.rmdir()


def test_what_comes_to_the_place_during_a_build_is_not_replaced(tmp_path):
    out = tmp_path / "o"
    with pytest.raises(UserError, match="the destination exists but is not a bundle"), making(out) as place:
        (place.folder / "manifest.json").write_text("{}")
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    assert (out / "thesis.txt").read_text() == "years of work"
    other = tmp_path / "p"
    with (
        pytest.raises(UserError, match="another build has written a bundle to --out in the meantime"),
        making(other, force=False) as place,
    ):
        (place.folder / "manifest.json").write_text("{}")
        bundle_like(other, "theirs")
    assert title_of(other) == "theirs"


def test_a_build_that_was_killed_while_it_cleaned_up_is_cleaned_up(checkpoint, tmp_path, command):
    """The bundle stands, and beside it what it replaced, the list, and the lock: the same build again removes them."""
    out, home = tmp_path / "o", tmp_path / ".o.partial"
    assert command("build", "--ckpt", checkpoint, "--out", out, "--no-verify")[0] == 0
    bundle_like(home / "old", "old")
    (home / "lock").touch()
    record = {"bytes": 1, "sha256": "0" * 64, "key": "0" * 64}
    (home / "finished.json").write_text(json.dumps({"weights.safetensors": record}))
    code, text, _ = command("build", "--ckpt", checkpoint, "--out", out, "--no-verify")
    assert code == 0 and "nothing to do" in text and [p.name for p in tmp_path.iterdir()] == ["o"]


def test_an_unfinished_bundle_never_opens_under_another_ones_manifest(tmp_path):
    out = tmp_path / "o"

    def write(path: Path) -> None:
        path.write_text(path.name)

    with pytest.raises(KeyboardInterrupt), making(out) as place:
        place.make("a", "0" * 64, write)
        (place.folder / "manifest.json").write_text("{}")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), making(out) as place:
        assert [path.name for path in place.folder.iterdir()] == ["a"]
        raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["hashing", "writing"])
def test_a_checkpoint_that_changes_while_it_is_read_is_refused(checkpoint, tmp_path, monkeypatch, moment):
    """What was mapped is what is written: under the new file's name it would be a lie that no later build finds."""
    from eas_export.build import artifacts, keys

    folder = Path(shutil.copytree(checkpoint, tmp_path / "data"))
    shard = next(folder.glob("weights/*/consolidated.00.pth"))

    def replace_it() -> None:
        copy = shard.with_suffix(".new")
        shutil.copy(shard, copy)
        copy.replace(shard)

    where, name = {
        "hashing": (keys, "remembered_sha256"),
        "writing": (artifacts, "write_store"),
    }[moment]
    real = getattr(where, name)

    def during(*arguments):
        result = real(*arguments)
        replace_it()
        return result

    monkeypatch.setattr(where, name, during)
    with pytest.raises(UserError, match="the file changed while it was read") as raised:
        build(folder, tmp_path / "o", verify=False)
    assert raised.value.where == str(shard) and [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["x" * 250, "x" * 5000, "file/o"])
def test_names_that_cannot_be_are_one_line(checkpoint, tmp_path, refused, name):
    (tmp_path / "file").touch()
    assert "--out" in refused("build", "--ckpt", checkpoint, "--out", tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk takes root")
def test_a_disk_of_its_own_is_refused_before_any_work(checkpoint, tmp_path, refused):
    out = tmp_path / "volume"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(out)], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        assert "the folder is a mount point" in refused("build", "--ckpt", checkpoint, "--out", out)
    finally:
        subprocess.run(["umount", str(out)], check=True)
