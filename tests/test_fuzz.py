"""Damaged files are taken or refused and do nothing else (500 cases; benchmarks/fuzz.py runs 50,000), and files behind links."""

import hashlib
import json
import os
import shutil

import pytest
from conftest import TINY
from fuzz_guard import GUARD, Hang
from fuzzing import CHECKPOINT, Fuzzer

from eas_export.bundle.bundle import looks_like_bundle, open_bundle
from eas_export.core.errors import UserError
from eas_export.families import detect
from eas_export.families.contract import Sources

CASES = 500
TARGETS = (
    *(
        "torch zip",
        "checkpoint",
        "params.json",
        "checkpoint folder",
        "Hugging Face folder",
        "LoRA folder",
        "lightning",
        "manifest",
        "weights",
        "report",
        "recipe",
        "skip list",
    ),
    *("npz", "questions", "image", "tokenizer"),
)


@pytest.fixture(scope="module")
def fuzzer(bundle_of, tmp_path_factory):
    return Fuzzer(tmp_path_factory.mktemp("fuzz"), bundle_of(TINY))


@pytest.mark.filterwarnings("ignore")  # of libraries, about damage that they live with
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_taken_or_refused_and_do_nothing_else(fuzzer, name):
    shares = fuzzer.shares(CASES)
    assert set(shares) == set(TARGETS) and sum(shares.values()) == CASES
    tally = fuzzer.run(name, range(shares[name]))
    assert tally.failures == [] and tally.refused + tally.accepted == shares[name] and tally.refused


def test_the_guard_sees_writes_outside_commands_and_code(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    with GUARD(folder):
        (folder / "file").write_bytes(b"x")
        assert not GUARD.seen
    deeds = (
        lambda: (tmp_path / "file").write_bytes(b"x"),
        lambda: os.rename(folder, tmp_path / "other"),
        lambda: os.system("true"),
        lambda: exec("pass"),
    )
    for deed in deeds:
        with pytest.raises(PermissionError), GUARD(folder):
            deed()
        assert len(GUARD.seen) == 1
    assert not (tmp_path / "file").exists() and folder.exists()


def test_the_guard_ends_what_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("fuzz_guard.HANG_SECONDS", 0.05)
    with pytest.raises(Hang), GUARD(tmp_path):
        while True:
            pass


@pytest.fixture
def small_bundle(bundle_of, tmp_path):
    """The demo's bundle, its manifest free to be changed."""
    folder = tmp_path / "folder" / "bundle"
    shutil.copytree(bundle_of(TINY).path, folder)
    return folder


@pytest.mark.parametrize(
    "name", ["../beside", "/etc/hostname", "..", "a/b", "a/../manifest.json", "", ".hidden", "a\nb", "a\\b"]
)
def test_names_in_a_manifest_never_leave_its_folder(small_bundle, name):
    """Whatever lies there: the name alone is refused."""
    (small_bundle.parent / "beside").write_bytes(b"x")
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (small_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"(?s)the manifest is damaged: files\..* should match pattern"):
        open_bundle(small_bundle)


def test_a_pipe_in_a_bundle_is_no_report_and_no_manifest(small_bundle):
    """Opening one would wait for somebody to write."""
    (small_bundle / "reports").mkdir(exist_ok=True)
    os.mkfifo(small_bundle / "reports" / "other.json")
    bundle = open_bundle(small_bundle)
    (small_bundle / "manifest.json").unlink()
    os.mkfifo(small_bundle / "manifest.json")
    with GUARD(small_bundle):
        assert bundle.read_report("other") is None
        assert not looks_like_bundle(small_bundle)
        with pytest.raises(UserError, match="not a regular file"):
            open_bundle(small_bundle)


def test_a_checkpoint_of_links_loads_as_the_files_do(tmp_path):
    """As Hugging Face's cache lays files out: snapshots of links to blobs that are named by their sha256."""
    snapshot = tmp_path / "snapshots" / hashlib.sha1(b"commit").hexdigest()
    for file in CHECKPOINT.rglob("*"):
        if file.is_file():
            blob = tmp_path / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            link = snapshot / file.relative_to(CHECKPOINT)
            blob.parent.mkdir(exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, blob)
            link.symlink_to(os.path.relpath(blob, link.parent))
    linked, real = (detect(folder).load(Sources(folder)) for folder in (snapshot, CHECKPOINT))
    assert (linked.config, linked.evidence) == (real.config, real.evidence)
    assert [path.name for path in linked.files] == [path.name for path in real.files]
    assert list(linked.tensors) == list(real.tensors)
    for name, tensor in real.tensors.items():
        assert linked.tensors[name].read().equal(tensor.read())
