"""The bundle: the only thing on disk between the stages.

    manifest.json         what it is: config, plan, limits, every graph's inputs and outputs, sha256 of each file, toolchain
    weights.safetensors   one store for all graphs
    task.safetensors      in a bundle that shares another's store: what the task's checkpoint has instead (`--base`)
    <graph>.onnx          graphs without weights, pointing into the store
    <graph>.<backend>.engine  what a backend built from a graph (`--backend`)
    tokenizer.model       carried along where the checkpoint has one
    reports/*.json        what was found out about it later; not part of its identity

It is written elsewhere and renamed at the end (workplace.py): what opens is whole. Names in the manifest are relative; a bundle
can be moved.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from .accounts import Accounts
from .any_config import AnyConfig
from .config import Limits, Record
from .digests import sha256_of
from .errors import UserError
from .files import require_file
from .graph import GraphSpec
from .plan import SkipPlan
from .recipe import BuildOptions, EngineWeights, FoldName, PrecisionName
from .store import Store
from .tokenizer import TOKENIZER_FILE

SCHEMA_VERSION = 4
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]  # never leaves the folder
GraphName = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
MANIFEST, WEIGHTS, TASK, REPORTS = "manifest.json", "weights.safetensors", "task.safetensors", "reports"
PARTS = (MANIFEST, WEIGHTS, TASK, REPORTS, "*.onnx", "*.engine", TOKENIZER_FILE)  # what may lie in a bundle's folder


class Target(Record):
    """What engines are built for.

    version               of the backend: engines run on no other
    compute_capabilities  of the GPUs, "8.6"
    gpu                   the name of the one GPU whose kernels were measured, None for any of these
    weights               bound: inputs of the engines, which share them; embedded: in each engine
    """

    backend: str
    version: str
    compute_capabilities: tuple[str, ...]
    weights: EngineWeights
    gpu: str | None = None


class EngineRecord(Record):
    """How an engine was built.

    attention  fused: every attention has a kernel of its own; decomposed: none was found; none: the graph has no attention
    seconds    that it took
    """

    graph: GraphName
    target: Target
    attention: Literal["fused", "decomposed", "none"]
    seconds: float


class FileRecord(Record):
    """One file of the bundle: size in bytes, sha256 in hex, and the key of what decides its content (identity.py)."""

    bytes: int = Field(ge=0)
    sha256: Sha256
    key: Sha256
    engine: EngineRecord | None = None


def engine_file(graph: str, backend: str) -> str:
    """The name of a graph's engine in the bundle."""
    return f"{graph}.{backend}.engine"


class SourceRecord(Record):
    """A checkpoint file that the bundle was made from: its name (never its path), size and sha256."""

    name: str
    bytes: int
    sha256: Sha256


class Manifest(Record):
    """manifest.json

    key      sha256 over sources, options, toolchain and base: two builds with the same key give the same bundle
    options  the resolved recipe
    base     the store that it shares with the bundle that was its --base, None for a store of its own
    """

    schema_version: int
    key: str
    config: AnyConfig
    plan: SkipPlan
    precision: PrecisionName
    fold: FoldName
    limits: Limits
    graphs: dict[GraphName, GraphSpec]
    files: dict[FileName, FileRecord]
    sources: tuple[SourceRecord, ...]
    options: BuildOptions
    toolchain: dict[str, str]
    accounts: Accounts
    base: SourceRecord | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if self.plan.sites != self.config.sites or not set(self.plan.skipped) <= set(range(self.config.sites)):
            raise ValueError("the plan does not fit the config")
        if any(name != spec.name for name, spec in self.graphs.items()):
            raise ValueError("a graph's name is not its key")
        missing = {WEIGHTS, *([TASK] if self.base else []), *(f"{name}.onnx" for name in self.graphs)} - set(self.files)
        if missing:
            raise ValueError(f"no record of {min(missing)}")
        for name, record in self.files.items():
            built = record.engine
            if built and (built.graph not in self.graphs or name != engine_file(built.graph, built.target.backend)):
                raise ValueError(f"{name} is not the engine that its record says")
        return self

    @property
    def engine_files(self) -> dict[str, FileRecord]:
        """The files that are engines, by name."""
        return {name: record for name, record in self.files.items() if record.engine}

    def engines(self, backend: str) -> dict[str, EngineRecord]:
        """Graph -> the record of its engine for this backend."""
        records = [record.engine for record in self.engine_files.values()]
        return {record.graph: record for record in records if record.target.backend == backend}


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its manifest; `open_bundle` makes one from a folder."""

    path: Path
    manifest: Manifest

    @cached_property
    def store(self) -> Store:
        return Store(*(self.path / name for name in (WEIGHTS, TASK) if name in self.manifest.files))

    def graph_file(self, name: str) -> Path:
        return self.path / f"{name}.onnx"

    def engine_file(self, name: str, backend: str) -> Path:
        return self.path / engine_file(name, backend)

    def damaged_files(
        self, on_bytes: Callable[[int], None] = lambda count: None, sha256: Callable[..., str] = sha256_of
    ) -> list[str]:
        """The files whose sha256 is not the manifest's. Reads everything, unless `sha256` remembers. Raises UserError for a file
        that cannot be read."""
        try:
            files = self.manifest.files.items()
            return [name for name, record in files if sha256(self.path / name, on_bytes) != record.sha256]
        except OSError as error:
            name = Path(error.filename or "a file").name
            what = f"{name} cannot be read ({error.strerror})"
            raise UserError(what, where=self.path, fix="copy the bundle again, or see to its permissions") from None

    def require_whole(
        self, on_bytes: Callable[[int], None] = lambda count: None, sha256: Callable[..., str] = sha256_of
    ) -> None:
        """Raise UserError that names the first damaged file, if there is one."""
        if damaged := self.damaged_files(on_bytes, sha256):
            what = f"{damaged[0]} is damaged: its sha256 is not the manifest's"
            raise UserError(what, where=self.path, fix="copy the bundle again, or build it again with --force")

    @property
    def nbytes(self) -> int:
        """The bytes of all its files."""
        return sum(record.bytes for record in self.manifest.files.values())

    def read_report(self, name: str) -> dict | None:
        """reports/<name>.json, or None where there is none that can be read."""
        try:
            return json.loads(require_file(self.path / REPORTS / f"{name}.json").read_text("utf-8"))
        except (UserError, OSError, ValueError, RecursionError):
            return None

    def write_report(self, name: str, report: dict) -> None:
        """Keep a report under reports/<name>.json."""
        folder = self.path / REPORTS
        folder.mkdir(exist_ok=True)
        partial = folder / f".{name}.partial"
        try:
            partial.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
            partial.replace(folder / f"{name}.json")
        finally:
            partial.unlink(missing_ok=True)


def open_bundle(path: Path | str, check: bool = False) -> Bundle:
    """The bundle at `path`. Raises UserError where there is none, or not a whole one: sizes are always checked; with `check` every
    byte is."""
    folder = Path(path)
    manifest = _read_manifest(folder / MANIFEST)
    for name, record in manifest.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != record.bytes:
            said = "is missing" if size is None else f"has {size} bytes, the manifest says {record.bytes}"
            raise UserError(f"{name} {said}", where=folder, fix="copy the bundle again, or build it again with --force")
    bundle = Bundle(folder, manifest)
    if check:
        bundle.require_whole()
    return bundle


def find_bundle(path: Path) -> Bundle | None:
    """The bundle at `path`, or None where there is none that opens."""
    try:
        return open_bundle(path)
    except UserError:
        return None


def looks_like_bundle(path: Path) -> bool:
    """Whether a folder has a manifest of ours, whole or not."""
    try:
        data = json.loads(require_file(path / MANIFEST).read_text("utf-8"))
    except (UserError, OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"schema_version", "graphs", "files"} <= set(data)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, after everything else: a folder without it is no bundle."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")


def _read_manifest(path: Path) -> Manifest:
    try:
        if path.exists():
            require_file(path)
        data = json.loads(path.read_text("utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(
                f"its schema version is {version!r}, this eas-export reads {SCHEMA_VERSION}",
                where=path,
                fix="build it again with this version and --force",
            )
        return Manifest.model_validate(data)
    except PermissionError as error:
        fix = "see to its permissions"
        raise UserError(f"it cannot be read ({error.strerror})", where=path.parent, fix=fix) from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "there is no bundle (no manifest.json)", where=path.parent, fix="give a folder that eas-export build wrote"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the manifest is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=path,
            fix="delete the folder and build the bundle again",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"the manifest is damaged ({error})", where=path, fix="delete the folder and build the bundle again"
        ) from None
