"""Bundles of earlier versions, one a folder of tests/older_bundles: each opens and gives what it gave then, or is refused with what to do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from eas_export import UserError, open_bundle, verify
from eas_export.bundle.manifest import READABLE_VERSIONS

FOLDER = Path(__file__).parent / "older_bundles"
VERSIONS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def schema_of(version: str) -> int:
    return json.loads((FOLDER / version / "manifest.json").read_text("utf-8"))["schema_version"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_bundle_of_an_earlier_version_runs_or_says_how_it_is_built_again(version, tmp_path, command):
    """outputs.npz holds the logits that the version itself gave, on ONNX Runtime."""
    place = shutil.copytree(FOLDER / version, tmp_path / "a.bundle")
    got = tmp_path / "y.npz"
    code, _, err = command("run", place, "--inputs", FOLDER / f"{version}.inputs.npz", "--outputs", got)
    if schema_of(version) not in READABLE_VERSIONS:
        assert code == 2 and f"eas-export build --ckpt CHECKPOINT --out {place} --force" in err
        return
    assert code == 0, err
    with np.load(got) as ours, np.load(FOLDER / f"{version}.outputs.npz") as theirs:
        assert set(ours.files) == set(theirs.files)
        for name in theirs.files:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("version", [version for version in VERSIONS if schema_of(version) in READABLE_VERSIONS])
def test_a_bundle_of_an_earlier_version_is_verified_or_refused(version, tmp_path):
    """Never found to differ for how an earlier version wrote its graphs."""
    place = shutil.copytree(FOLDER / version, tmp_path / "a.bundle")
    assert open_bundle(place, check=True).manifest.toolchain["eas-export"] == version
    if version == "0.6.0":  # its graphs' values have no names
        with pytest.raises(UserError, match=f"eas-export build --ckpt CHECKPOINT --out {place} --force"):
            verify(place)
    else:
        assert verify(place).verdict == "self-consistent"
