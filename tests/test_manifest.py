"""The manifest's digest: any change after the build is found by every command, whatever the change means."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import golden_case, llava_golden_case

from eas_export.bundle.bundle import open_bundle, read_bundle, with_digest
from eas_export.bundle.manifest import MANIFEST
from eas_export.core.errors import UserError

CASE = golden_case("first")
EDITS = {  # of a LLaVA's manifest, each to a value that is valid
    "scale": ("config", "kept_adapter", "scale"),
    "temperature": ("config", "skipped_adapter", "temperature"),
    "theta": ("config", "ropes", 0, "theta"),
    "mean": ("config", "vision", "image", "mean", 0),
    "epsilon": ("config", "norm_eps"),
}


@pytest.fixture
def bundle(bundle_of, tmp_path):
    return shutil.copytree(bundle_of(llava_golden_case("a")).path, tmp_path / "a.bundle")


def edit(folder: Path, place: tuple, change) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = change(inside[place[-1]])
    (folder / MANIFEST).write_text(json.dumps(content))


def leaves(content: Any, place: tuple = ()) -> Iterator[tuple]:
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, (*place, key))
    else:
        yield place


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_manifest_is_refused_by_every_command(bundle, name, command, refused, tmp_path):
    edit(bundle, EDITS[name], lambda value: value * 0.5)
    npz = tmp_path / "x.npz"
    np.savez(npz, input_ids=np.array([[1, 5, 9]]))
    for line in (("inspect", bundle), ("inspect", bundle, "--check"), ("run", bundle, "--inputs", npz)):
        error = refused(*line)
        assert (
            "manifest.json was changed after the bundle was built" in error and "build it again with --force" in error
        )
    for checkpoint in ((), ("--ckpt", llava_golden_case("a").folder)):
        code, text, _ = command("verify", bundle, *checkpoint, "--json")
        said = json.loads(text)
        assert code == 1 and said["verdict"] == "differs" and not said["steps"]
        assert [each["name"] for each in said["files"] if not each["ok"]] == [MANIFEST]
        assert said["first_divergence"]["stage"] == MANIFEST
        code, text, _ = command("verify", bundle, *checkpoint)
        assert code == 1 and "manifest.json was changed after the bundle was built" in text
        assert "another model" not in text


@pytest.mark.parametrize("content", ["{}", "[]", '{"schema_version": 5}', '{"name": "of a web page"}'])
def test_a_manifest_that_is_not_ours_makes_no_bundle(bundle, content, refused):
    """No build would replace it, so none is advised."""
    (bundle / MANIFEST).write_text(content)
    said = refused("inspect", bundle)
    assert (
        "its manifest.json is not one of eas-export's" in said and "give a folder that eas-export build wrote" in said
    )
    build = ("build", "--ckpt", llava_golden_case("a").folder, "--out", bundle, "--force")
    assert "the destination exists but is not a bundle" in refused(*build)


def test_another_family_is_a_change_too(bundle, refused):
    edit(bundle, ("config", "family"), lambda _: "lavin")
    assert "manifest.json was changed" in refused("inspect", bundle)


def test_every_value_is_under_the_digest(bundle_of):
    content = json.loads((bundle_of(CASE).path / MANIFEST).read_text())
    assert with_digest(content) == content
    places = [place for place in leaves(content) if place != ("digest",)]
    assert len(places) > 200
    for place in places:
        edited = json.loads(json.dumps(content))
        inside = edited
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = [inside[place[-1]]]
        assert with_digest(edited) != edited, place


def test_the_form_of_the_text_is_not_under_it(bundle):
    """A manifest that a tool has written again, with the same content, is the same manifest."""
    content = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(dict(reversed(content.items()))))
    assert open_bundle(bundle).is_unchanged


def test_a_manifest_without_its_digest_was_changed(bundle):
    content = json.loads((bundle / MANIFEST).read_text())
    del content["digest"]
    (bundle / MANIFEST).write_text(json.dumps(content))
    assert not read_bundle(bundle).is_unchanged
    with pytest.raises(UserError, match=r"manifest\.json was changed"):
        open_bundle(bundle)


def test_a_build_replaces_a_bundle_with_a_changed_manifest(bundle, command, refused):
    edit(bundle, ("config", "norm_eps"), lambda value: value * 2)
    build = ("build", "--ckpt", llava_golden_case("a").folder, "--out", bundle, "--no-verify")
    assert "manifest.json was changed" in refused(*build)
    code, _, err = command(*build, "--force")
    assert code == 0, err
    assert open_bundle(bundle).is_unchanged
