"""The bundle: the only thing on disk between the stages.

    manifest.json         config, plan, limits, every graph's inputs and outputs, sha256 of each file, toolchain; a digest of all that
    weights.safetensors   one store for all graphs
    task.safetensors      in a bundle that shares another's store (`--base`): the tensors in which the checkpoints differ
    <graph>.onnx          graphs without weights, which point into the store
    <graph>.<backend>.engine  engines that a backend built from a graph (`--backend`)
    tokenizer.model       or tokenizer.json: the checkpoint's, if it has one, with the other files that it consists of (checkpoint/hf_files.py)
    labels.json           a classifier's answers in the order of its logits, if they were given
    reports/*.json        later results such as parity and speed; not part of the bundle's identity

A bundle is written elsewhere and renamed at the end (build/workspace.py): one that opens is complete. Names in the manifest are
relative, so a bundle can be moved.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.errors import UserError
from ..system.files import require_file
from ..system.hashing import key_of, sha256_of
from .manifest import MANIFEST, READABLE_VERSIONS, REPORTS, SCHEMA_VERSION, TASK, WEIGHTS, Manifest, engine_file
from .store import Store

BUILD_OR_COPY = "copy the bundle again, or build it again with --force"


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its manifest; see `open_bundle`.

    graph_folder   folder of the graphs; None: the bundle's
    is_unchanged   whether the manifest is the one that was written
    """

    path: Path
    manifest: Manifest
    graph_folder: Path | None = None
    is_unchanged: bool = True

    @cached_property
    def store(self) -> Store:
        return Store(*(self.path / name for name in (WEIGHTS, TASK) if name in self.manifest.files))

    def graph_file(self, name: str) -> Path:
        return (self.graph_folder or self.path) / f"{name}.onnx"

    def engine_file(self, name: str, backend: str) -> Path:
        return self.path / engine_file(name, backend)

    def damaged_files(
        self, on_bytes: Callable[[int], None] = lambda count: None, sha256: Callable[..., str] = sha256_of
    ) -> list[str]:
        """The files whose sha256 is not the manifest's, and the manifest where its digest is another. Reads everything, unless
        `sha256` has a cache. Raises UserError for a file that cannot be read."""
        try:
            files = self.manifest.files.items()
            damaged = [name for name, record in files if sha256(self.path / name, on_bytes) != record.sha256]
            return damaged if self.is_unchanged else [MANIFEST, *damaged]
        except OSError as error:
            name = Path(error.filename or "a file").name
            what = f"{name} cannot be read ({error.strerror})"
            raise UserError(what, where=self.path, fix="copy the bundle again, or check its permissions") from None

    def require_whole(
        self, on_bytes: Callable[[int], None] = lambda count: None, sha256: Callable[..., str] = sha256_of
    ) -> None:
        """Raise UserError, which names the first damaged file, if any is."""
        if damaged := self.damaged_files(on_bytes, sha256):
            what = f"{damaged[0]} is damaged: its sha256 is not that in the manifest"
            raise UserError(what, where=self.path, fix=BUILD_OR_COPY)

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        return sum(record.bytes for record in self.manifest.files.values())

    def read_report(self, name: str) -> dict | None:
        """reports/<name>.json, or None where it does not exist or cannot be read."""
        try:
            return json.loads(require_file(self.path / REPORTS / f"{name}.json").read_text("utf-8"))
        except (UserError, OSError, ValueError, RecursionError):
            return None

    def write_report(self, name: str, report: dict) -> None:
        """Write a report to reports/<name>.json."""
        folder = self.path / REPORTS
        folder.mkdir(exist_ok=True)
        partial = folder / f".{name}.partial"
        try:
            partial.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
            partial.replace(folder / f"{name}.json")
        finally:
            partial.unlink(missing_ok=True)


def open_bundle(path: Bundle | Path | str, check: bool = False) -> Bundle:
    """The bundle at `path`, or an open one. Raises UserError where there is no bundle, the manifest was changed, or files
    are missing or damaged: their sizes are always checked, every byte with `check`."""
    bundle = path if isinstance(path, Bundle) else read_bundle(path)
    if not bundle.is_unchanged:
        what = f"{MANIFEST} was changed after the bundle was built: its digest does not match"
        raise UserError(what, where=bundle.path, fix=BUILD_OR_COPY)
    if check:
        bundle.require_whole()
    return bundle


def read_bundle(path: Path | str) -> Bundle:
    """As `open_bundle`, but a changed manifest is only noted: for reports about it."""
    folder = Path(path)
    manifest, is_unchanged = _read_manifest(folder / MANIFEST)
    for name, record in manifest.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != record.bytes:
            if size is not None:
                require_file(file)  # raises for a Git LFS pointer
            fault = "is missing" if size is None else f"has {size} bytes, but {record.bytes} in the manifest"
            raise UserError(f"{name} {fault}", where=folder, fix=BUILD_OR_COPY)
    return Bundle(folder, manifest, is_unchanged=is_unchanged)


def find_bundle(path: Path) -> Bundle | None:
    """The bundle at `path`, or None where none opens."""
    try:
        return open_bundle(path)
    except UserError:
        return None


def looks_like_bundle(path: Path) -> bool:
    """Whether a folder has a manifest of ours, valid or not."""
    try:
        data = json.loads(require_file(path / MANIFEST).read_text("utf-8"))
    except (UserError, OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"schema_version", "graphs", "files"} <= set(data)


def build_again(path: Path) -> str:
    """The fix for a bundle of another version."""
    return f"build it again: eas-export build --ckpt CHECKPOINT --out {path} --force"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, after everything else: only a folder with it is a bundle."""
    content = with_digest(manifest.model_dump(mode="json"))
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def with_digest(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest's content with the digest of all the rest of it, by which `read_bundle` sees a change."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return {"digest": key_of(rest)} | rest


def _read_manifest(path: Path) -> tuple[Manifest, bool]:
    """The manifest, and whether its digest is right; bundles of schema 4 need not have one."""
    try:
        if path.exists():
            require_file(path)
        data = json.loads(path.read_text("utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not looks_like_bundle(path.parent):
            what = f"the path is not a bundle (its {MANIFEST} is not one of eas-export's)"
            raise UserError(what, where=path.parent, fix="give a folder that eas-export build wrote")
        if version not in READABLE_VERSIONS:
            what = f"the manifest's schema version is {version!r}, but this eas-export reads {' and '.join(map(str, READABLE_VERSIONS))}"
            raise UserError(what, where=path, fix=build_again(path.parent))
        is_unchanged = data == with_digest(data) or (version != SCHEMA_VERSION and "digest" not in data)
        return Manifest.model_validate({k: v for k, v in data.items() if k != "digest"}), is_unchanged
    except PermissionError as error:
        what = f"the bundle cannot be read ({error.strerror})"
        raise UserError(what, where=path.parent, fix="check its permissions") from None
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.lexists(path.parent):
            raise UserError("there is no such file or folder", where=path.parent, fix="check the path") from None
        what = "the path is not a bundle (it has no manifest.json)"
        raise UserError(what, where=path.parent, fix="give a folder that eas-export build wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        what = f"the manifest is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(what, where=path, fix="delete the folder and build the bundle again") from None
    except (OSError, ValueError, RecursionError) as error:
        what = f"the manifest is damaged ({error})"
        raise UserError(what, where=path, fix="delete the folder and build the bundle again") from None
