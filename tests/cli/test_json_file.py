"""--json-file: the object of --json in a file, beside the tables; errors too, once a command has started."""

import json
import shutil

import numpy as np
import pytest
from conftest import TINY, golden_case

from eas_export.cli.main import COMMANDS, cli

CASE = golden_case("first")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_it(name):
    assert {"--json", "--json-file"} <= {option for each in cli.get_command(None, name).params for option in each.opts}


@pytest.mark.parametrize("name", ["inspect", "run", "doctor", "build"])
def test_the_file_has_the_object_and_tables_stay(name, bundle_of, tmp_path, command):
    np.savez(tmp_path / "x.npz", **CASE.arrays("txt1"))
    dry = ("--ckpt", TINY.folder, "--out", tmp_path / "o", "--dry-run")
    more = {"run": ("--inputs", tmp_path / "x.npz"), "doctor": (), "build": dry}.get(name, ())
    given = (
        name,
        *(() if name in ("doctor", "build") else (bundle_of(CASE).path,)),
        *more,
    )
    said = tmp_path / "said.json"
    tables = command(*given)[1]
    code, out, err = command(*given, "--json-file", said)
    assert code == 0 and out == tables and json.loads(said.read_text()) == json.loads(command(*given, "--json")[1]), err
    said.write_text('{\n "of": "an earlier run"\n}\n')
    assert json.loads(command(*given, "--json", f"--json-file={said}")[1]) == json.loads(said.read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"x.npz", "said.json"}


def test_a_verdict_and_a_search_are_there_too(bundle_of, plain, questions, tmp_path, command):
    said, bundle = tmp_path / "said.json", bundle_of(CASE).path
    code, out, _ = command("verify", bundle, "--backend", "pytorch", "--steps", 1, "--json-file", said)
    assert "verdict: not run" in out and json.loads(said.read_text())["verdict"] == "not run" and code == 3
    steps = ("--skip", "1", "--tune-steps", 1, "--batch", 1, "--kept-rank", 4, "--skipped-rank", 4)
    search = ("search", "--ckpt", plain, "--data", questions, "--out", tmp_path / "eas", *steps, "--json-file", said)
    assert "loss after tuning" in command(*search)[1] and json.loads(said.read_text())["skipped"] == [1]


def test_an_error_is_there_as_with_json(tmp_path, command):
    said = tmp_path / "said.json"
    code, out, err = command("inspect", tmp_path / "nowhere", "--json-file", said)
    assert code == 2 and not out and "error: " in err
    assert json.loads(said.read_text()) == json.loads(command("inspect", tmp_path / "nowhere", "--json")[1])


def test_no_other_file_is_replaced(bundle_of, tmp_path, command):
    """Nor by the message that refuses."""
    bundle = shutil.copytree(bundle_of(CASE).path, tmp_path / "b")
    file, page, image = tmp_path / "q.jsonl", tmp_path / "page.html", tmp_path / "cat.png"
    for path in (file, page, image):
        path.write_text("mine")
    ckpt, settings = tmp_path / "ckpt", tmp_path / "settings.json"
    (ckpt / "weights").mkdir(parents=True)
    for path in (ckpt / "config.json", ckpt / "weights" / "params.json"):
        path.write_text('{\n "dim": 8\n}\n')
    settings.write_text('{\n  "dim": 8\n}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for given, said in (
        (("run", bundle, "--inputs", file, "--json-file", file), "a file that the command reads or writes"),
        (("verify", bundle, "--html", page, "--json-file", page), "a file that the command reads or writes"),
        (("inspect", bundle, "--json-file", bundle / "manifest.json"), "inside a bundle"),
        (("inspect", bundle, "--json-file", bundle / "new.json"), "inside a bundle"),
        (("inspect", bundle, "--json-file", tmp_path), "the path is a folder"),
        (("inspect", ckpt, "--json-file", ckpt / "config.json"), "names a file in a folder that the command reads"),
        (
            ("inspect", ckpt, "--json-file", ckpt / "weights" / "params.json"),
            "names a file in a folder that the command reads",
        ),
        (("run", bundle, "--prompt", "x", "--image", image, "--json-file", image), "reads or writes"),
        (("run", bundle, "--prompt", "x", "--json-file", image), "would replace a file that it did not write"),
        (("inspect", bundle, "--json-file", settings), "would replace a file that it did not write"),
        (("inspect", bundle, "--json-file", tmp_path / "no" / "x.json"), "is not a writable folder"),
        (("inspect", bundle, "--bogus", "--json-file", bundle / "manifest.json"), "No such option"),
    ):
        code, _, err = command(*given)
        assert code == 2 and said in err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
