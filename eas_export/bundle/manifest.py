"""manifest.json as records: what a bundle is and what it was made from."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from ..checkpoint.hf_files import TOKENIZER_FILES
from ..checkpoint.labels import LABELS
from ..core.configs import AnyConfig
from ..core.graph_spec import GraphSpec
from ..core.limits import Limits
from ..core.options import BuildOptions, EngineWeights, FoldName, PrecisionName
from ..core.plan import SkipPlan
from ..core.record import Record

SCHEMA_VERSION = 5
READABLE_VERSIONS = (4, SCHEMA_VERSION)  # 4 has no digest
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]  # never leaves the folder
GraphName = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
MANIFEST, WEIGHTS, TASK, REPORTS = "manifest.json", "weights.safetensors", "task.safetensors", "reports"
PARTS = (MANIFEST, WEIGHTS, TASK, REPORTS, "*.onnx", "*.engine", *TOKENIZER_FILES, LABELS)  # possible files of a bundle


class Target(Record):
    """The backend and GPUs that engines are built for.

    version               of the backend: engines run on this one only
    compute_capabilities  of the GPUs, "8.6"
    gpu                   name of the GPU on which kernels were timed; None: any of these GPUs
    weights               bound: inputs of the engines, which share them; embedded: in each engine
    """

    backend: str
    version: str
    compute_capabilities: tuple[str, ...]
    weights: EngineWeights
    gpu: str | None = None


class EngineRecord(Record):
    """How an engine was built.

    attention  fused: every attention has a kernel of its own; decomposed: the builder has no such kernel; none: no attention
    seconds    time of the build
    """

    graph: GraphName
    target: Target
    attention: Literal["fused", "decomposed", "none"]
    seconds: float


class FileRecord(Record):
    """One file of the bundle: size in bytes, sha256 in hex, and the key of what decides its content (build/keys.py)."""

    bytes: int = Field(ge=0)
    sha256: Sha256
    key: Sha256
    engine: EngineRecord | None = None


def engine_file(graph: str, backend: str) -> str:
    """The name of a graph's engine in the bundle."""
    return f"{graph}.{backend}.engine"


class SourceRecord(Record):
    """A file that the bundle was made from: its name (never its path), size and sha256."""

    name: str
    bytes: int
    sha256: Sha256


Count = Annotated[int, Field(ge=0, le=1 << 60)]


class Account(Record):
    """Counts of one network.

    parameters          part -> number of parameters
    total_bytes         of all parameters
    kv_bytes_per_token  of one row's caches
    flops               floating-point operations of all matrix products of one pass over one row; 0 where a pass has no fixed size
    """

    parameters: dict[str, Count]
    total_parameters: Count
    total_bytes: Count
    kv_bytes_per_token: Count
    flops: Count = 0


class Accounts(Record):
    """Counts before and after pruning, both in the bundle's dtype."""

    before: Account
    after: Account


class Manifest(Record):
    """manifest.json

    The file also has `digest`, the sha256 of all its other content (bundle.py).

    key      sha256 over sources, options, toolchain and base: builds with the same key make the same bundle
    config   of the network that the graphs compute
    options  the resolved recipe
    base     the store that is shared with the --base bundle; None: a store of its own
    system   the published system that the model is ("LaVIN-EAS"); empty in older bundles
    trained  the checkpoint's config, where the network that is exported is another; None: `config`
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
    system: str = ""
    trained: AnyConfig | None = None

    @property
    def checkpoint_config(self) -> AnyConfig:
        """The config of the checkpoint that the bundle was built from."""
        return self.trained or self.config

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if self.plan.sites != self.config.sites or not set(self.plan.skipped) <= set(range(self.config.sites)):
            raise ValueError("the plan does not fit the config")
        if any(name != spec.name for name, spec in self.graphs.items()):
            raise ValueError("a graph's name differs from its key")
        missing = {WEIGHTS, *([TASK] if self.base else []), *(f"{name}.onnx" for name in self.graphs)} - set(self.files)
        if missing:
            raise ValueError(f"files lacks {min(missing)}")
        for name, record in self.files.items():
            built = record.engine
            if built and (built.graph not in self.graphs or name != engine_file(built.graph, built.target.backend)):
                raise ValueError(f"{name} is not the name of the engine in its record")
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
class Made:
    """What a writer reports about the file that it wrote.

    sha256  None: not computed while writing
    engine  None for other files
    """

    sha256: str | None = None
    engine: EngineRecord | None = None
