"""Make the files of a bundle, each with the key that decides its content."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from ..backends import backends_that_run, get_backend
from ..bundle.bundle import Bundle
from ..bundle.manifest import SCHEMA_VERSION, TASK, WEIGHTS, Accounts, Made, Manifest, Target, engine_file
from ..bundle.store import Parameter, Store, write_store
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.labels import LABELS
from ..checkpoint.lazy_tensor import LazyTensor
from ..core.configs import AnyConfig
from ..core.errors import UserError
from ..core.graph_spec import GraphSpec
from ..core.options import DEFAULT_OPSET, BuildOptions
from ..core.plan import SkipPlan
from ..core.precision import PRECISIONS, Precision
from ..core.progress import Progress
from ..export.export_graph import export_graph
from ..export.weights import attach_weights
from ..networks.graphs import graphs_of
from ..networks.memory import DeviceMemory, device_memory
from ..networks.parameters import network_parameters
from ..system.hashing import key_of
from .keys import Identity, graph_key
from .workspace import Workspace

ANOTHER_BASE = "give a bundle over the same base model and in the same precision, or leave --base out"


@dataclass(frozen=True)
class Blueprint:
    """What to build.

    checkpoint  of the network that is exported (networks/parameters.exported)
    targets     of the engines, if any
    trained     the config of the checkpoint as it was loaded; None: the same
    """

    checkpoint: Checkpoint
    plan: SkipPlan
    options: BuildOptions
    targets: tuple[Target, ...] = ()
    trained: AnyConfig | None = None

    @property
    def precision(self) -> Precision:
        return PRECISIONS[self.options.precision]

    @cached_property
    def parameters(self) -> dict[str, LazyTensor]:
        """Every parameter of the network in its stored dtype, by its name in the store."""
        return network_parameters(self.checkpoint, self.plan, self.precision, self.options.limits)

    @property
    def graphs(self) -> dict[str, GraphSpec]:
        """The specs of the fold mode's graphs."""
        config, limits = self.checkpoint.config, self.options.limits
        modes = graphs_of(self.checkpoint.config, self.options.fold).items()
        return {name: graph.spec(config, self.plan, self.precision, limits) for name, graph in modes}

    @property
    def device_memory(self) -> DeviceMemory:
        """The GPU memory that its engines take."""
        nbytes = {name: t.numel * t.dtype.itemsize for name, t in self.parameters.items()}
        config, options = self.checkpoint.config, self.options
        return device_memory(config, self.plan, self.precision, options.limits, options.fold, nbytes)


def engine_targets(options: BuildOptions) -> tuple[Target, ...]:
    """The targets that the options' backends build engines for. Raises UserError if one cannot build here or from this opset, and for
    engine options without a backend that builds engines."""
    compilers = [get_backend(name).compiler for name in options.backend]
    targets = tuple(compiler.target(options) for compiler in compilers if compiler)
    if not targets and (options.compute_capability is not None or options.engine_weights != "bound"):
        option = "--compute-capability" if options.compute_capability is not None else "--engine-weights"
        raise UserError(
            "no engines are built", where=option, fix=f"pass --backend {' or '.join(backends_that_run('engines'))} too"
        )
    if targets and options.opset != DEFAULT_OPSET:
        what = f"engines need graphs of opset {DEFAULT_OPSET}, in which caches are updated in place"
        raise UserError(what, where="--opset", fix="leave it out, or build a separate bundle for older consumers")
    return targets


def require_matrix_products(blueprint: Blueprint) -> None:
    """Raise UserError for a GPU that the blueprint's engines are for and that lacks matrix products of a parameter's dtype."""
    needed = {str(t.dtype).removeprefix("torch.") for t in blueprint.parameters.values() if len(t.shape) > 1}
    for target in blueprint.targets:
        lacks = get_backend(target.backend).compiler.lacks
        for capability in target.compute_capabilities:
            if dtype := next((each for each in lacks.get(capability, ()) if each in needed), None):
                what = f"{target.backend} has no {dtype} matrix products for compute capability {capability}, which the model needs"
                alone = len(target.compute_capabilities) == 1
                fix = "name another GPU with" if alone else f"leave {capability} out of"
                raise UserError(what, where="--compute-capability", fix=f"{fix} --compute-capability")


def make_files(
    workspace: Workspace, blueprint: Blueprint, identity: Identity, base: Bundle | None, progress: Progress
) -> None:
    """Make every file except the manifest. Raises UserError for tensors that are not finite, and for an unsuitable base."""
    parameters = _parameters(blueprint)
    if base is None:
        workspace.make(WEIGHTS, identity.weights, lambda path: _write(path, parameters, blueprint, progress))
        store = Store(workspace.folder / WEIGHTS)
    else:
        store = _share_store(workspace, parameters, blueprint, identity, base, progress)
    for name, spec in blueprint.graphs.items():
        key = graph_key(spec, blueprint.checkpoint.config, blueprint.plan, blueprint.options, store, identity.toolchain)
        workspace.make(f"{name}.onnx", key, lambda path, name=name: _export(path, name, blueprint, store, progress))
    for target in blueprint.targets:
        for name, spec in blueprint.graphs.items():
            _make_engine(workspace, name, spec, store, target, progress)
    for tokenizer in blueprint.checkpoint.tokenizer:
        content = tokenizer.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        workspace.make(tokenizer.name, key_of(sha256), lambda path, content=content: _copy(path, content))
    if labels := blueprint.checkpoint.labels:
        content = json.dumps(labels).encode("ascii")
        workspace.make(LABELS, key_of(labels), lambda path: _copy(path, content))
    workspace.end()


def describe(
    workspace: Workspace, blueprint: Blueprint, identity: Identity, accounts: Accounts, notes: tuple[str, ...]
) -> Manifest:
    """The manifest of the finished files."""
    options = blueprint.options
    return Manifest(
        schema_version=SCHEMA_VERSION,
        key=identity.key,
        config=blueprint.checkpoint.config,
        trained=None if blueprint.trained == blueprint.checkpoint.config else blueprint.trained,
        system=blueprint.checkpoint.system,
        plan=blueprint.plan,
        precision=options.precision,
        fold=options.fold,
        limits=options.limits,
        graphs=blueprint.graphs,
        files=dict(sorted(workspace.records.items())),
        sources=identity.sources,
        options=identity.options,
        toolchain=identity.toolchain,
        accounts=accounts,
        base=identity.base,
        notes=notes,
    )


def _parameters(blueprint: Blueprint) -> list[Parameter]:
    return [
        Parameter(name, str(t.dtype).removeprefix("torch."), t.shape, t.source, t.read)
        for name, t in blueprint.parameters.items()
    ]


def _write(path: Path, parameters: list[Parameter], blueprint: Blueprint, progress: Progress) -> Made:
    """Write the store. The sha256 is computed while writing, without reading the file back."""
    with progress.stage("writing weights", sum(p.nbytes for p in parameters)) as done:
        sha256 = write_store(path, parameters, done)
    blueprint.checkpoint.require_unchanged()
    return Made(sha256=sha256)


def require_shared(blueprint: Blueprint, base: Bundle) -> None:
    """Raise UserError where a base's store cannot hold half of the weights, by their names, types and shapes alone."""
    there = {e.name: (e.dtype, e.shape) for e in Store(base.path / WEIGHTS).entries.values()}
    parameters = _parameters(blueprint)
    _require_half([p for p in parameters if there.get(p.name) != (p.dtype, p.shape)], parameters, base)


def _require_half(own: list[Parameter], parameters: list[Parameter], base: Bundle) -> None:
    missing, total = (sum(p.nbytes for p in some) for some in (own, parameters))
    if 2 * missing > total:
        shared = 100 * (total - missing) / total
        what = f"the base bundle is over another base model: it has no more than {shared:.0f} % of this model's weights"
        raise UserError(what, where=f"--base {base.path}", fix=ANOTHER_BASE)


def _share_store(
    workspace: Workspace,
    parameters: list[Parameter],
    blueprint: Blueprint,
    identity: Identity,
    base: Bundle,
    progress: Progress,
) -> Store:
    """The base's store, plus a small one of the tensors that differ in any byte."""

    def refuse(_: Path) -> None:
        fix = "build the base again with --force"
        what = f"the base's {WEIGHTS} is damaged: its sha256 does not match the manifest"
        raise UserError(what, where=base.path, fix=fix)

    workspace.make(WEIGHTS, base.manifest.files[WEIGHTS].key, refuse)
    shared = Store(workspace.folder / WEIGHTS)

    def write_own(path: Path) -> Made:
        own = []
        with progress.stage("comparing with the base", sum(p.nbytes for p in parameters)) as done:
            for p in parameters:
                own += [] if shared.holds(p.name, p.read()) else [p]
                done(p.nbytes)
        _require_half(own, parameters, base)
        return _write(path, own, blueprint, progress)

    workspace.make(TASK, key_of(identity.weights, identity.base.sha256), write_own)
    return Store(workspace.folder / WEIGHTS, workspace.folder / TASK)


def _export(path: Path, name: str, blueprint: Blueprint, store: Store, progress: Progress) -> None:
    """Record and save one graph of the fold mode."""
    options = blueprint.options
    with progress.stage(f"exporting {name}"):
        config = blueprint.checkpoint.config
        graph = graphs_of(config, options.fold)[name]
        _, model = export_graph(graph, config, blueprint.plan, blueprint.precision, options.limits, options.opset)
        ir.save(attach_weights(model, store), path)


def _make_engine(
    workspace: Workspace, name: str, spec: GraphSpec, store: Store, target: Target, progress: Progress
) -> None:
    """Build one graph's engine, or reuse one of the same graph and target."""
    with progress.stage(f"preparing {name} for {target.backend}"):
        plan = get_backend(target.backend).compiler.plan(workspace.folder / f"{name}.onnx", spec, store, target)
    key = key_of(plan.key, [workspace.records[file].sha256 for file in plan.reads])
    workspace.make(engine_file(name, target.backend), key, lambda path: plan.build(path, progress))


def _copy(path: Path, content: bytes) -> None:
    path.write_bytes(content)
