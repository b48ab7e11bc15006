"""What is the same by content is not made again: second builds, changed options, a second task over the same base."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import by_itself, golden_case, llava_golden_case
from test_build import adapters, change

import eas_export
from eas_export.bundle.bundle import open_bundle, write_manifest
from eas_export.bundle.store import Store

CASE = by_itself(golden_case("first"))


def stages(err: str) -> list[str]:
    """What a build did, without what it only looked at."""
    done = [line.split(": done")[0] for line in err.splitlines() if ": done" in line]
    return [title for title in done if title.startswith(("writing", "exporting", "comparing"))]


@pytest.fixture
def built(bundle_of, tmp_path) -> Path:
    """A bundle that a test may replace."""
    return Path(shutil.copytree(bundle_of(CASE).path, tmp_path / "o"))


@pytest.mark.parametrize(
    "changed, redone",
    [
        (("--max-prompt", "1024", "--max-batch", "1", "--adapter-scale", "1.0"), []),  # what it is by itself
        (("--fold", "lowrank", "--max-batch", "1"), ["exporting decode"]),
        (("--router-temperature", "5"), ["writing weights"]),
    ],
)
def test_a_changed_option_redoes_what_depends_on_it(built, command, changed, redone):
    code, _, err = command("build", "--ckpt", CASE.folder, "--out", built, *changed, "--force", "--no-verify")
    assert code == 0 and stages(err) == redone
    assert open_bundle(built).damaged_files() == []


def test_a_damaged_file_is_made_again_and_only_that(built, command, refused):
    path = built / "vision.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "vision.onnx is damaged" in refused("inspect", built, "--check")
    assert "vision.onnx is damaged" in refused("build", "--ckpt", CASE.folder, "--out", built)
    with pytest.raises(eas_export.UserError, match=r"vision\.onnx is damaged:"):
        eas_export.open_bundle(built, check=True)
    code, _, err = command("build", "--ckpt", CASE.folder, "--out", built, "--force", "--no-verify")
    assert code == 0 and stages(err) == ["exporting vision"]
    code, text, _ = command("inspect", built, "--check")
    assert code == 0 and "the sha256 of every file is the manifest's" in text
    assert "--check works on bundles only" in refused("inspect", CASE.folder, "--check")


@pytest.mark.parametrize(
    "changed, said",
    [
        (("--max-prompt", 512), "max_prompt is 512, the bundle's 1024"),
        (("--max-tokens", 512), "max_tokens is 512, the bundle's 2048"),
        (("--precision", "fp16", "--fold", "lowrank"), "precision is fp16, the bundle's fp32"),
        (("--fold", "lowrank", "--adapter-scale", "1.0"), "fold is lowrank, the bundle's weights"),
        (("--skip", "none"), "skip is none, the bundle's 0"),
        (("--skip", "0,2"), "skip is 0, 2, the bundle's 0"),
        (("--router-temperature", "5"), "kept_adapter.temperature is 5.0, the bundle's 1.0"),
        (
            ("--backend", "tensorrt-rtx", "--compute-capability", "86"),
            "backend is tensorrt-rtx, the bundle's onnxruntime",
        ),
    ],
)
def test_another_bundle_in_the_place_is_told_by_its_first_difference(bundle_of, refused, changed, said):
    """max_prompt follows max_tokens: the option that was typed is named."""
    line = refused("build", "--ckpt", CASE.folder, "--out", bundle_of(CASE).path, *changed)
    assert f"the folder holds another bundle: {said} (" in line


def test_another_checkpoint_or_version_in_the_place_is_told(built, second_task, refused):
    build = ("build", "--ckpt", second_task, "--out", built)
    assert "holds another bundle: checkpoint-19.pth is not a file that the bundle was made from (" in refused(*build)
    bundle = open_bundle(built)
    older = {"toolchain": bundle.manifest.toolchain | {"eas-export": "0.8.0"}, "key": "0" * 64}
    write_manifest(built, bundle.manifest.model_copy(update=older))
    assert f"eas-export is {eas_export.__version__}, the bundle's 0.8.0 (" in refused(
        "build", "--ckpt", CASE.folder, *build[3:]
    )


@pytest.fixture
def second_task(tmp_path) -> Path:
    """The same base model with other adapters."""
    folder = Path(shutil.copytree(CASE.folder, tmp_path / "second"))

    def train(content: dict) -> None:
        for tensor in content["model"].values():
            tensor.mul_(1.25)

    change(adapters(folder), train)
    return folder


def test_a_second_task_shares_the_store(built, second_task, tmp_path, command, refused):
    base, out, plain = open_bundle(built), tmp_path / "task2", tmp_path / "plain"
    build = ("build", "--ckpt", second_task, "--out")
    code, text, err = command(*build, out, "--base", base.path, "--json")
    assert code == 0 and json.loads(text)["report"]["verdict"] == "same as the checkpoint", err
    assert (out / "weights.safetensors").samefile(base.path / "weights.safetensors")
    own = Store(out / "task.safetensors").entries
    assert all(
        part.split(".")[-2] in ("down", "adapter", "router", "pool", "modality", "project1", "project2") for part in own
    )
    trained = sum(p.stat().st_size for p in (second_task / "checkpoint-19.pth",))
    assert (out / "task.safetensors").stat().st_size < 1.5 * trained
    # the graphs' tensors are those of a build of its own
    assert command(*build, plain, "--no-verify")[0] == 0
    shared, alone = open_bundle(out), open_bundle(plain)
    assert (
        shared.manifest.key != alone.manifest.key
        and shared.manifest.base.sha256 == base.manifest.files["weights.safetensors"].sha256
    )
    assert all(shared.store.tensor(name).equal(alone.store.tensor(name)) for name in alone.store.entries)
    # it can be told, and built a second time, and be a base itself
    assert "shared with" in command("inspect", out)[1] and command("inspect", out, "--check")[0] == 0
    assert "nothing to do" in command(*build, out, "--base", base.path)[1]
    assert f"base is none, the bundle's {base.path.name}, sha256" in refused(*build, out)
    third = tmp_path / "third"
    code, _, err = command("build", "--ckpt", CASE.folder, "--out", third, "--base", out, "--no-verify")
    assert code == 0, err
    assert (third / "weights.safetensors").samefile(base.path / "weights.safetensors")
    assert Store(third / "task.safetensors").entries == {}  # the first task's weights are all there


def test_options_that_say_what_is_so_anyway_are_the_same_build(built, command):
    config = open_bundle(built).manifest.config
    said = ("--adapter-scale", config.kept_adapter.scale, "--router-temperature", config.kept_adapter.temperature)
    code, text, _ = command("build", "--ckpt", CASE.folder, "--out", built, "--max-batch", "1", *said, "--no-verify")
    assert code == 0 and "nothing to do" in text


def test_a_base_of_links_is_followed(bundle_of, tmp_path, command):
    """As caches lay files out: names that link to content."""
    store, base = tmp_path / "blobs", tmp_path / "base"
    shutil.copytree(bundle_of(CASE).path, store)
    base.mkdir()
    for path in store.iterdir():
        (base / path.name).symlink_to(Path("..") / "blobs" / path.name)
    out = tmp_path / "o"
    code, _, err = command("build", "--ckpt", CASE.folder, "--out", out, "--base", base, "--no-verify")
    assert code == 0, err
    assert (out / "weights.safetensors").samefile(store / "weights.safetensors")
    assert not (out / "weights.safetensors").is_symlink()


def test_another_skip_list_writes_the_layers_that_changed(built, tmp_path, command):
    out = tmp_path / "other"
    code, _, err = command("build", "--ckpt", CASE.folder, "--out", out, "--skip", "0,2", "--base", built)
    assert code == 0, err
    own = Store(out / "task.safetensors").entries
    assert {name.split(".")[1] for name in own} == {"2"} and "layers.2.ffn.gate.weight" in own


def test_a_base_that_cannot_be_one_is_refused(bundle_of, built, tmp_path, refused):
    build = ("build", "--ckpt", CASE.folder, "--out", tmp_path / "x", "--base")
    assert "the base bundle is in fp32, this build in fp16" in refused(*build, built, "--precision", "fp16")
    said = refused(*build, bundle_of(golden_case("half_13B")).path)  # of the same shapes: read, then refused
    assert "the base bundle is over another base model: it has no more than " in said and "leave --base out" in said
    other = bundle_of(llava_golden_case("a")).path
    assert "it has no more than 12 % of this model's weights" in refused(*build, other, "--dry-run")
    assert "the path is not a bundle" in refused(*build, tmp_path)
    assert "--base is the bundle that is to be built" in refused(
        "build", "--ckpt", CASE.folder, "--out", built, "--base", built
    )
    with open(built / "weights.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert "weights.safetensors is damaged" in refused(*build, built)
    assert not (tmp_path / "x").exists() and not (tmp_path / ".x.partial").exists()
