"""build: what it writes, what it refuses, and that nothing is left of a failure."""

import argparse
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, TINY, by_itself, golden_case
from sentencepiece import SentencePieceTrainer

from eas_export.bundle.bundle import open_bundle


@pytest.fixture
def data(tmp_path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(GOLDEN / "lavin" / "first", tmp_path / "data"))


def tensors(path: Path) -> dict:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def change(path: Path, edit) -> None:
    content = tensors(path)
    edit(content)
    torch.save(content, path)


def llama(data: Path) -> Path:
    return data / "weights" / "7B" / "consolidated.00.pth"


def adapters(data: Path) -> Path:
    return data / "checkpoint-19.pth"


def clip(data: Path) -> Path:
    return data / "clip" / "ViT-tiny-7.pth"


def test_build_verify_and_reuse(data, tmp_path, command):
    out = tmp_path / "out.bundle"
    code, text, err = command("build", "--ckpt", data, "--out", out)
    assert code == 0 and "verdict: same as the checkpoint" in text and "0  (1 of 6, from args.skip_list" in text
    assert "exporting prefill: done" in err  # long work shows progress
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out.bundle"]
    report = json.loads((out / "reports" / "verify.json").read_text())
    assert report["verdict"] == "same as the checkpoint" and set(report["steps"][-1]["cases"]) == {
        "text",
        "image",
        "shortest",
    }
    made = (out / "manifest.json").stat().st_mtime_ns

    (out / "reports" / "verify.json").write_text(json.dumps(report | {"verdict": "differs"}))
    assert command("build", "--ckpt", data, "--out", out)[0] == 1  # what was found out is not forgotten
    (out / "reports" / "verify.json").unlink()
    code, text, _ = command("build", "--ckpt", data, "--out", out, "--json")
    said = json.loads(text)
    assert code == 0 and said["reused"] is True and said["report"] == report
    assert (out / "manifest.json").stat().st_mtime_ns == made

    code, text, _ = command("build", "--ckpt", data, "--out", out, "--max-prompt", "32", "--json")
    assert code == 2 and "--force" in json.loads(text)["error"]["fix"]
    code, text, _ = command(
        "build", "--ckpt", data, "--out", out, "--max-prompt", "32", "--force", "--no-verify", "--json"
    )
    assert code == 0 and open_bundle(out).manifest.limits.max_prompt == 32 and not (out / "reports").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out.bundle"]


def test_two_builds_give_the_same_bytes(bundle_of, data, tmp_path, command):
    first = bundle_of(by_itself(golden_case("first"))).path
    assert command("build", "--ckpt", data, "--out", tmp_path / "o", "--no-verify")[0] == 0
    names = [*open_bundle(first).manifest.files, "manifest.json"]
    assert [name for name in names if (first / name).read_bytes() != (tmp_path / "o" / name).read_bytes()] == []


def test_adapter_file_with_the_others_beside_it(data, tmp_path, command):
    args = ("--weights", data / "weights" / "7B", "--vision", clip(data), "--dry-run", "--json")
    code, text, err = command("build", "--ckpt", adapters(data), "--out", tmp_path / "o", *args)
    assert code == 0, err
    assert json.loads(text)["plan"]["skipped"] == [0]


def small_tokenizer(pieces: int) -> bytes:
    file, letters = io.BytesIO(), "abcdefghijklmnopqrstuvwxyz"
    SentencePieceTrainer.train(
        sentence_iterator=iter([letters, "the cat and the hen and the cow"]),
        model_writer=file,
        model_type="bpe",
        vocab_size=pieces,
        minloglevel=2,
    )
    return file.getvalue()


def test_a_tokenizer_that_does_not_fit_is_refused_before_any_work(data, tmp_path, refused):
    path = data / "weights" / "tokenizer.model"
    path.write_bytes(b"sentencepiece model")
    assert "not a sentencepiece model" in refused("build", "--ckpt", data, "--out", tmp_path / "o", "--dry-run")
    path.write_bytes((TINY.folder / "weights" / "tokenizer.model").read_bytes())
    assert "128 tokens, but the model 96" in refused("build", "--ckpt", data, "--out", tmp_path / "o", "--dry-run")


def test_options_override_the_file_and_a_tokenizer_is_carried_along(data, tmp_path, command):
    tokenizer = small_tokenizer(40)
    (data / "weights" / "tokenizer.model").write_bytes(tokenizer)
    change(
        llama(data), lambda c: c["layers.2.attention.wq.weight"].fill_(float("nan"))
    )  # skipped below: nobody reads it
    out = tmp_path / "o"
    options = ("--router-temperature", "3.5", "--adapter-scale", "0.25", "--skip", "2-3", "--no-verify")
    assert command("build", "--ckpt", data, "--out", out, *options)[0] == 0
    m = open_bundle(out).manifest
    assert (m.config.kept_adapter.temperature, m.config.vision.adapter.scale) == (3.5, 0.25)
    assert (m.plan.skipped, m.plan.origin) == ((2, 3), "--skip")
    assert m.options.router_temperature == 3.5
    assert (out / "tokenizer.model").read_bytes() == tokenizer and "tokenizer.model" in m.files


def test_settings_that_the_file_does_not_say_are_asked_for(data, tmp_path, command, refused):
    change(adapters(data), lambda c: (delattr(c["args"], "temperature"), delattr(c["args"], "adapter_scale")))
    both = refused("build", "--ckpt", data, "--out", tmp_path / "o")
    assert "does not record adapter_scale and temperature" in both
    assert both.endswith("pass --adapter-scale 1 --router-temperature 10, as in training")
    assert "--router-temperature" in refused("build", "--ckpt", data, "--out", tmp_path / "o", "--adapter-scale", "1")
    options = ("--adapter-scale", "1", "--router-temperature", "10", "--dry-run")
    assert command("build", "--ckpt", data, "--out", tmp_path / "o", *options)[0] == 0
    change(adapters(data), lambda c: c.pop("args"))
    assert "--skip" in refused("build", "--ckpt", data, "--out", tmp_path / "o", *options)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


def spoil_nan(path: Path, key: str):
    def edit(content):
        content[key][0] = float("nan")

    return lambda data: change(path(data), edit)


def spoil_adapter(key: str, value):
    return lambda data: change(adapters(data), lambda c: c["model"].__setitem__(key, value))


def spoil_args(**values):
    return lambda data: change(adapters(data), lambda c: vars(c["args"]).update(values))


KEY = "module.layers.3.adapter_attn.conv_B.weight"
SPOILED = {
    "truncated weights": (
        lambda d: llama(d).write_bytes(llama(d).read_bytes()[:-5000]),
        "consolidated.00.pth.*copy it again|not a whole torch checkpoint",
    ),
    "truncated adapters": (
        lambda d: adapters(d).write_bytes(adapters(d).read_bytes()[:1000]),
        "not a whole torch checkpoint",
    ),
    "empty weights": (lambda d: llama(d).write_bytes(b""), "the file is empty"),
    "a folder for a file": (lambda d: (clip(d).unlink(), clip(d).mkdir()), "is a folder"),
    "a shard is missing": (
        lambda d: llama(d).rename(llama(d).with_name("consolidated.01.pth")),
        "shard consolidated.00.pth is missing",
    ),
    "an args that has no end": (spoil_args(adapter_scale=10**400), "adapter_scale is 1000"),
    "text for a checkpoint": (lambda d: clip(d).write_text("version https://git-lfs"), "not a whole torch checkpoint"),
    "a pickle that runs code": (
        lambda d: change(adapters(d), lambda c: c.update(optimizer=Payload())),
        "asks for posix.mkdir, which was not run",
    ),
    "no model": (lambda d: change(adapters(d), lambda c: c.pop("model")), "the checkpoint has no named tensors"),
    "NaN in a used tensor": (
        spoil_nan(llama, "layers.4.attention.wq.weight"),
        "layers.4.attention.q.weight holds NaN.*consolidated.00.pth: layers.4.attention.wq.weight",
    ),
    "NaN in an adapter": (
        spoil_adapter("module.layers.0.replaced_adapter.conv_A.bias", torch.full((32,), float("nan"))),
        "layers.0.pool.bias holds NaN",
    ),
    "missing key": (
        lambda d: change(llama(d), lambda c: c.pop("layers.2.feed_forward.w2.weight")),
        r"missing key layers.2.feed_forward.w2.weight, expected with shape \[64, 192\]",
    ),
    "unknown key": (
        lambda d: change(llama(d), lambda c: c.update({"layers.6.attention.wq.weight": torch.ones(2)})),
        "unknown key 'layers.6.attention.wq.weight",
    ),
    "mis-shaped key": (
        spoil_adapter(KEY, torch.ones(64, 8, 1)),
        r"layers.3.adapter_attn.conv_B.weight has shape \[64, 8, 1\], expected \[64, 4, 1\]",
    ),
    "missing vision key": (
        lambda d: change(clip(d), lambda c: c.pop("visual.conv1.weight")),
        "missing key visual.conv1.weight",
    ),
    "wrong n_prompt": (spoil_args(n_prompt=6), "n_prompt is 6, but a tower of 4 blocks gives 1"),
    "broken adapter type": (spoil_args(visual_adapter_type="router_block"), "router_block"),
    "unsupported adapter type": (spoil_args(adapter_type="mlp"), "adapter_type is 'mlp'"),
    "skip list out of range": (
        spoil_args(skip_list="[0, 6]"),
        "skip index 6 is out of range: the model has attentions 0-5",
    ),
    "no skip list": (spoil_args(skip_list="[]"), "does not say which attentions are skipped"),
    "skip list of objects": (spoil_args(skip_list=[torch.ones(2), 10**5000]), "invalid part 'LazyTensor'"),
    "numbers too long to be written down": (spoil_args(adapter_scale=10**5000), "adapter_scale is 'int'"),
    "n_prompt is a tensor": (spoil_args(n_prompt=torch.ones(2)), "n_prompt is LazyTensor"),
    "a hundred shards in no order": (
        lambda d: [llama(d).with_name(f"consolidated.{n:02d}.pth").write_bytes(b"x") for n in range(101)],
        "the folder has 101 shards",
    ),
    "skip list of another kind": (spoil_args(skip_list="layers"), "skip list 'layers'"),
    "temperature 0": (spoil_args(temperature=0), "temperature is 0"),
    "two adapter files": (
        lambda d: shutil.copy(adapters(d), d / "checkpoint-18.pth"),
        "the folder has 2 files that match checkpoint-.*--ckpt FILE",
    ),
    "no adapter file": (lambda d: adapters(d).unlink(), r"the folder has no checkpoint-\*\.pth"),
    "no tower": (lambda d: clip(d).unlink(), "clip.*weights/<name>/"),
    "no weights": (lambda d: llama(d).unlink(), r"consolidated\.00\.pth is missing"),
    "no params": (lambda d: (llama(d).parent / "params.json").unlink(), "no folders of a LLaMA"),
    "params of another kind": (
        lambda d: (llama(d).parent / "params.json").write_text('{"dim": "x"}'),
        "params.json.*dim",
    ),
    "params are no JSON": (lambda d: (llama(d).parent / "params.json").write_text("{"), "params.json"),
    "params of another model": (
        lambda d: (llama(d).parent / "params.json").write_text('{"dim": 128, "n_layers": 6, "n_heads": 4}'),
        r"shape \[\d+, 64\], expected \[\d+, 128\]",
    ),
}


@pytest.mark.parametrize("title", SPOILED)
def test_bad_files_are_one_line_and_leave_nothing(title, data, tmp_path, refused, monkeypatch):
    spoil, said = SPOILED[title]
    spoil(data)
    monkeypatch.chdir(tmp_path)
    import re

    line = refused("build", "--ckpt", data, "--out", tmp_path / "out.bundle", "--no-verify")
    assert re.search(said, line), line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--skip", "5-7"), "skip index 6 is out of range"),
        (("--skip", "x"), "write indices and ranges"),
        (("--max-batch", "2"), "--fold lowrank"),
        (("--precision", "fp12"), "fp12"),
        (("--router-temperature", "0"), "router_temperature"),
        (("--max-prompt", "5000"), "no room for an answer"),
        (("--recipe", "absent.yaml"), "no such file"),
        (("--weights", "absent"), "params.json"),
        (("--vision", "absent"), "no such file"),
        (("--nonsense",), "No such option"),
    ],
)
def test_bad_options_are_one_line(arguments, said, tmp_path, refused):
    line = refused("build", "--ckpt", GOLDEN / "lavin" / "first", "--out", tmp_path / "out.bundle", *arguments)
    assert said in line
    assert not list(tmp_path.iterdir())


def test_other_mistakes_are_one_line(tmp_path, refused):
    case = golden_case("first")
    assert "no such file or folder" in refused("build", "--ckpt", tmp_path / "absent", "--out", tmp_path / "o")
    assert "known family" in refused("build", "--ckpt", tmp_path, "--out", tmp_path / "o")
    assert "--weights DIR" in refused("build", "--ckpt", case.folder / "checkpoint-19.pth", "--out", tmp_path / "o")
    assert "did you mean build" in refused("biuld")


@pytest.mark.parametrize("more", [(), ("--force",), ("--dry-run",)])
def test_only_bundles_are_replaced(data, tmp_path, refused, monkeypatch, more):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(thesis)
    build = ("build", "--ckpt", data, *more, "--out")
    for out in (thesis, tmp_path / "file", tmp_path / "link", data, data / "weights", tmp_path, "."):
        monkeypatch.chdir(thesis)
        assert "the destination exists but is not a bundle" in refused(*build, out)
    assert "is not a folder" in refused(*build, tmp_path / "file" / "o")
    (thesis / "manifest.json").write_text("{}")  # many tools call a file so
    assert "the destination exists but is not a bundle" in refused(*build, thesis)
    (thesis / "manifest.json").write_text('{"schema_version": 1, "graphs": {}, "files": {}}')
    assert "the bundle's folder contains thesis.txt, which is not part of a bundle" in refused(*build, thesis)
    assert (thesis / "thesis.txt").read_text() == "years of work" and adapters(data).exists()


def test_an_empty_folder_is_a_fine_place(data, tmp_path, command):
    (tmp_path / "o").mkdir()
    code, _, err = command("build", "--ckpt", data, "--out", tmp_path / "o", "--dry-run")
    assert code == 0, err


def test_a_failed_replacement_keeps_the_old_bundle(bundle_of, data, tmp_path, refused):
    old = shutil.copytree(bundle_of(golden_case("first")).path, tmp_path / "o")
    change(llama(data), lambda c: c["norm.weight"].fill_(float("nan")))
    assert "norm.weight holds NaN" in refused("build", "--ckpt", data, "--out", old, "--force")
    assert open_bundle(old).damaged_files() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "o"]


def test_a_damaged_bundle_is_not_taken_for_done(bundle_of, data, tmp_path, refused):
    old = Path(shutil.copytree(bundle_of(by_itself(golden_case("first"))).path, tmp_path / "o"))
    with open(old / "decode.onnx", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    assert "decode.onnx is damaged" in refused("build", "--ckpt", golden_case("first").folder, "--out", old)


def test_a_skip_list_that_is_not_the_checkpoints_is_noted(data, tmp_path, command):
    code, text, _ = command("build", "--ckpt", data, "--out", tmp_path / "o", "--skip", "2", "--dry-run", "--json")
    assert code == 0 and "not what the checkpoint was trained with" in json.loads(text)["notes"][0]


def test_our_own_bugs_show_their_traceback(tmp_path, command, monkeypatch):
    from eas_export.build import artifacts

    monkeypatch.setattr(artifacts, "export_graph", lambda *a: 1 / 0)
    code, _, err = command("build", "--ckpt", GOLDEN / "lavin" / "first", "--out", tmp_path / "o")
    assert code == 70 and "ZeroDivisionError" in err and "Traceback" in err and "bug of eas-export" in err
    assert [p.name for p in tmp_path.iterdir()] == [".o.partial"]  # the weights were finished: the next build has them
