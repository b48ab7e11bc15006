"""The bundle: the only thing on disk between the stages.

    manifest.json         what it is: config, plan, limits, every graph's inputs and outputs, sha256 of each file, toolchain
    weights.safetensors   one store for all graphs
    <graph>.onnx          graphs without weights, pointing into the store
    tokenizer.model       carried along where the checkpoint has one
    reports/*.json        what was found out about it later; not part of its identity

It is written to a temporary folder beside its place and renamed at the end: what opens is whole. Names in the manifest are
relative; a bundle can be moved.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

from pydantic import Field, ValidationError, field_validator

from .accounts import Accounts
from .config import Limits, ModelConfig, Record
from .errors import UserError
from .graph import GraphSpec
from .plan import SkipPlan
from .store import Store

SCHEMA_VERSION = 1
MANIFEST, WEIGHTS, REPORTS = "manifest.json", "weights.safetensors", "reports"


class FileRecord(Record):
    """One file of the bundle: size in bytes, sha256 in hex."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class SourceRecord(Record):
    """A checkpoint file that the bundle was made from: its name (never its path), size and sha256."""

    name: str
    bytes: int
    sha256: str


class Manifest(Record):
    """manifest.json

    key      sha256 over sources, options and toolchain: two builds with the same key give the same bundle
    options  the resolved recipe
    """

    schema_version: int
    key: str
    config: ModelConfig
    plan: SkipPlan
    precision: str
    fold: str
    limits: Limits
    graphs: dict[str, GraphSpec]
    files: dict[str, FileRecord]
    sources: tuple[SourceRecord, ...]
    options: dict[str, str | int | float | None]
    toolchain: dict[str, str]
    accounts: Accounts
    notes: tuple[str, ...] = ()

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            parts = PurePosixPath(name).parts
            if (
                not parts
                or name.startswith("/")
                or "\\" in name
                or ":" in name
                or any(part in ("..", ".") for part in parts)
            ):
                raise ValueError(f"file name {name!r} leaves the bundle")
        return files


class Bundle:
    """An opened bundle. Raises UserError where there is none, or not a whole one."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.manifest = _read_manifest(self.path / MANIFEST)
        for name, record in self.manifest.files.items():
            file = self.path / name
            size = file.stat().st_size if file.is_file() else None
            if size != record.bytes:
                said = "is missing" if size is None else f"has {size} bytes, the manifest says {record.bytes}"
                raise UserError(
                    f"{name} {said}", where=self.path, fix="copy the bundle again, or build it again with --force"
                )

    @cached_property
    def store(self) -> Store:
        return Store(self.path / WEIGHTS)

    def graph_file(self, name: str) -> Path:
        return self.path / f"{name}.onnx"

    def damaged_files(self) -> list[str]:
        """The files whose sha256 is not the manifest's. Reads everything."""
        return [name for name, record in self.manifest.files.items() if sha256_of(self.path / name) != record.sha256]

    def read_report(self, name: str) -> dict | None:
        """reports/<name>.json, or None where there is none that can be read."""
        try:
            return json.loads((self.path / REPORTS / f"{name}.json").read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None

    def write_report(self, name: str, report: dict) -> None:
        """Keep a report under reports/<name>.json."""
        folder = self.path / REPORTS
        folder.mkdir(exist_ok=True)
        partial = folder / f".{name}.partial"
        partial.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        partial.replace(folder / f"{name}.json")


@contextmanager
def new_bundle_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that takes `out`'s place when the block ends well, and vanishes when it does not. A folder that was at
    `out` is removed only then."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise UserError(
            f"no folder can be made there ({error.strerror})", where=out, fix="choose another --out"
        ) from None
    try:
        yield folder
        folder.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            out.rename(old / "bundle")
            folder.rename(out)
            shutil.rmtree(old)
        else:
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, last: a folder without it is no bundle."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")


def record_file(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> Manifest:
    try:
        data = json.loads(path.read_text("utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(
                f"its schema version is {version!r}, this eas-export reads {SCHEMA_VERSION}",
                where=path,
                fix="build the bundle again with this version",
            )
        return Manifest.model_validate(data)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "there is no bundle (no manifest.json)", where=path.parent, fix="give a folder that eas-export build wrote"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the manifest is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=path,
            fix="build the bundle again with --force",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"the manifest is damaged ({error})", where=path, fix="build the bundle again with --force"
        ) from None


def open_bundle(path: Path | str) -> Bundle:
    """The bundle at `path`. Raises UserError where there is none, or not a whole one."""
    return Bundle(path)
