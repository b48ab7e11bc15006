"""The bundles that baselines run: the bundle itself, others that share its weights, and those that only its checkpoint can give.

    weights, lowrank, none, offline   the same model in this fold mode
    floor      the same graphs without adapters: useless as a model, but the bound that "zero extra latency" is measured against
    unskipped  the checkpoint's model with every attention, adapters beside the weights
    plain      `unskipped` without adapters: the base model, which any runtime for language models takes
    genai      `plain` as onnxruntime-genai takes it
    tensorrt-rtx-weights-bound ...    with engines, which read their weights from one copy or have them embedded

All are in one scratch folder. Weights that are the same are shared with the bundle, not written again.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..backends import backends_that_run, get_backend
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.manifest import Manifest
from ..core.configs import AnyConfig
from ..core.errors import OutOfSpace, UserError
from ..core.graph_spec import GraphSpec
from ..core.limits import Limits
from ..core.precision import PRECISIONS
from ..core.progress import Progress
from ..export.derived_bundle import DerivedBundle
from ..export.export_graph import export_graph
from ..families.contract import Sources
from ..networks import network_part
from ..networks.graphs import every_fold_mode, fold_modes, graphs_of, takes_one_prompt
from ..pipeline import build
from .genai import export_genai, require_genai
from .llama import write_llama
from .settings import Workload


@dataclass
class BaselineBundles:
    """Makes each bundle when it is first asked for.

    sources  of the checkpoint, None without one
    folder   scratch, removed after the run
    more     rows beside those of BUNDLES
    """

    bundle: Bundle
    sources: Sources | None
    workload: Workload
    folder: Path
    progress: Progress
    more: "Mapping[str, Maker]" = field(default_factory=dict)
    _made: dict[str, Path | UserError] = field(default_factory=dict)

    def place(self, name: str) -> Path:
        """The folder of a row of BUNDLES or of `more`. Raises UserError, each time, where it cannot be made, OutOfSpace on a full disk."""
        if name not in self._made:
            try:
                self._made[name] = {**BUNDLES, **self.more}[name](self, self.folder / name)
            except UserError as error:
                self._made[name] = error
            except OSError as error:
                what = f"the bundle {name!r} cannot be written ({error.strerror})"
                fix = "give another --scratch, make room, or name fewer baselines with --against"
                self._made[name] = OutOfSpace(what, where=self.folder, fix=fix)
        if isinstance(self._made[name], UserError):
            raise self._made[name]
        return self._made[name]

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def limits(self, fold: str, config: AnyConfig | None = None) -> Limits:
        """The bundle's limits, with room for the workload's rows where the fold mode takes several. config: of a network, None: the bundle's"""
        rows = 1 if takes_one_prompt(config or self.manifest.config, fold) else max(self.workload.batches)
        return self.manifest.limits.model_copy(update={"max_batch": rows})


def in_fold_mode(bundles: BaselineBundles, folder: Path, fold: str) -> Path:
    """The bundle's own folder in its own fold mode, whatever rows it takes."""
    m = bundles.manifest
    if fold not in fold_modes(m.config):
        known = ", ".join(fold_modes(m.config))
        what = f"the bundle has no fold mode {fold!r}, only {known}"
        raise UserError(what, where="--against", fix="leave this baseline out")
    if m.fold == fold:
        return bundles.bundle.path
    return _over_the_same_weights(bundles.bundle, folder, m.config, fold, bundles.limits(fold), bundles.progress)


def floor(bundles: BaselineBundles, folder: Path) -> Path:
    return _without_adapters(bundles, bundles.bundle, folder)


def unskipped(bundles: BaselineBundles, folder: Path) -> Path:
    fold = "lowrank" if "lowrank" in fold_modes(bundles.manifest.config) else bundles.manifest.fold
    _build(bundles, folder, base=_reuse_source(bundles), skip="none", fold=fold)
    return folder


def plain(bundles: BaselineBundles, folder: Path) -> Path:
    place = bundles.place("unskipped")
    return place if bundles.manifest.fold == "none" else _without_adapters(bundles, open_bundle(place), folder)


def engines(bundles: BaselineBundles, folder: Path, backend: str, fold: str, weights: str) -> Path:
    """The bundle's own folder where it has such engines."""
    health, m = get_backend(backend).health(), bundles.manifest
    if not health.runs or bundles.workload.device != "cuda":
        what = health.status if not health.runs else "engines run on a GPU"
        raise UserError(what, where=backend, fix=health.fix or f"use a GPU that {backend} supports, and --device cuda")
    built = m.engines(backend).values()
    if m.fold == fold and built and all(each.target.weights == weights for each in built):
        return bundles.bundle.path
    skip = ",".join(map(str, m.plan.skipped)) or "none"
    _build(bundles, folder, base=bundles.bundle.path, skip=skip, fold=fold, backend=backend, engine_weights=weights)
    return folder


def genai(bundles: BaselineBundles, folder: Path) -> Path:
    precision, llama = bundles.manifest.precision, folder.with_name("llama")
    require_genai(precision)
    if bundles.workload.device != "cpu":
        raise UserError(
            "the model of onnxruntime-genai is built for the CPU only",
            where="onnxruntime-genai",
            fix="pass --device cpu",
        )
    bundle = open_bundle(bundles.place("plain"))
    try:
        with bundles.progress.stage("writing the base model for onnxruntime-genai") as done:
            write_llama(bundle, llama, done)
        with bundles.progress.stage("exporting with onnxruntime-genai's builder"):
            export_genai(llama, folder, precision)
    finally:
        shutil.rmtree(llama, ignore_errors=True)
    return folder


def _without_adapters(bundles: BaselineBundles, bundle: Bundle, folder: Path) -> Path:
    m = bundle.manifest
    if "lowrank" not in fold_modes(m.config):
        what = "the bundle has no adapters that could be left out"
        raise UserError(what, where="--against", fix="leave this baseline out")
    bare, _, keeps_all = network_part(m.config, "without_adapters")(m.config)
    if keeps_all and m.plan.skipped:
        what = "without adapters nothing would be left of the layers that the bundle skips"
        raise UserError(what, where="--against", fix="leave this baseline out")
    return _over_the_same_weights(bundle, folder, bare, "none", bundles.limits("none"), bundles.progress)


def _over_the_same_weights(
    bundle: Bundle, folder: Path, config: AnyConfig, fold: str, limits: Limits, progress: Progress
) -> Path:
    """A bundle with other graphs that shares a bundle's weights."""
    m, precision = bundle.manifest, PRECISIONS[bundle.manifest.precision]

    def exported() -> Iterator[tuple[GraphSpec, ir.Model]]:
        for name, graph in graphs_of(config, fold).items():
            with progress.stage(f"exporting {name} for {folder.name}"):
                yield export_graph(graph, config, m.plan, precision, limits, m.options.opset)

    derived = DerivedBundle(bundle, folder)
    derived.replace_graphs(exported())
    return derived.seal(folder.name, config=config, fold=fold, limits=limits).path


def _build(bundles: BaselineBundles, folder: Path, base: Path | None, **asked: Any) -> None:
    """`build_from` the bundle's own checkpoint. Raises UserError without one."""
    if bundles.sources is None:
        what = "this baseline needs weights that the bundle no longer has"
        raise UserError(what, where="bench", fix="pass --ckpt too")
    build_from(bundles, bundles.sources, bundles.manifest.config, folder, base, **asked)


def build_from(
    bundles: BaselineBundles, sources: Sources, config: AnyConfig, folder: Path, base: Path | None, **asked: Any
) -> None:
    """Build from a checkpoint, whose config is given, with the bundle's options, except for those in `asked`: its fold mode is among them."""
    m = bundles.manifest
    limits = bundles.limits(asked["fold"], config).model_dump(exclude=set(config.unused_limits))
    options = (
        {n: getattr(m.options, n) for n in ("precision", "adapters", "opset")} | m.options.settings | limits | asked
    )
    paths = {name: getattr(sources, name) for name in ("weights", "vision", "base_weights", "tokenizer")}
    build(sources.ckpt, folder, base=base, verify=False, progress=bundles.progress, **paths, **options)


def _reuse_source(bundles: BaselineBundles) -> Path | None:
    """The bundle, where a model with every attention shares most of its weights: at least half of its attentions are kept."""
    plan = bundles.manifest.plan
    return bundles.bundle.path if 2 * len(plan.skipped) <= plan.sites else None


Maker = Callable[
    [BaselineBundles, Path], Path
]  # (bundles, an empty place in the scratch folder) -> the bundle's folder
BUNDLES: dict[str, Maker] = {
    **{fold: partial(in_fold_mode, fold=fold) for fold in every_fold_mode()},
    **{
        f"{backend}-{fold}-{weights}": partial(engines, backend=backend, fold=fold, weights=weights)
        for backend in backends_that_run("engines")
        for fold in every_fold_mode()
        for weights in ("bound", "embedded")
    },
    "floor": floor,
    "unskipped": unskipped,
    "plain": plain,
    "genai": genai,
}
