"""The systems that EAS is compared with, as baselines of `bench`: the user gives a checkpoint of each, or a bundle that was built from one.

Each is built and run as the bundle is: by the same backend, in the same precision, with the same limits. Weights that they have in common with the
bundle are shared. What is wrong with a checkpoint is found out before anything is built or timed.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..bundle.bundle import Bundle, looks_like_bundle, open_bundle
from ..bundle.manifest import Manifest
from ..core.configs import AnyConfig
from ..core.errors import UserError
from ..core.plan import Site, SkipPlan, choose_plan
from ..core.registry import find
from ..families import detect, load_checkpoint
from ..families.contract import Sources
from ..networks.graphs import fold_modes
from .baseline_bundles import BaselineBundles, build_from
from .baselines import Baseline, engine_target

OPTION = "--against-ckpt"


@dataclass(frozen=True)
class System:
    """what     in words
    fold     the fold mode of its bundle, None: the first that its model has
    skips    what it leaves out, "attention" or "layer" as in a config's `site`; None: nothing
    """

    what: str
    fold: str | None = None
    skips: Site | None = None


SYSTEMS: dict[str, System] = {
    "lavin-folded": System("LaVIN, adapters folded into the weights", "weights"),
    "lavin-unfolded": System("LaVIN, adapters beside the weights", "lowrank"),
    "das": System("DAS, whole layers replaced by adapters", skips="layer"),
    "lora": System("LoRA, merged into the weights"),
}
# What two systems have in common where the difference between them is not the model's size
SAME = ("family", "task", "vocab_size", "dim", "layers", "heads", "ffn_dim")


@dataclass(frozen=True)
class Contestant:
    """A system that the user gave. place: makes its bundle in a folder, or says where it is"""

    baseline: Baseline
    place: Callable[[BaselineBundles, Path], Path]


def contestants(
    given: Mapping[str, Path | str], bundle: Bundle, sources: Sources | None, device: str
) -> dict[str, Contestant]:
    """The systems that were given, by name.

    given    name in SYSTEMS -> a checkpoint or a bundle
    sources  of the bundle's own checkpoint: files that it was given beside it serve these checkpoints, too

    Raises UserError for an unknown name, for a checkpoint that cannot be read or does not say what it skips, for one of another model than the bundle's, and for
    a bundle that was built otherwise.
    """
    found = {}
    for name, path in given.items():
        system, where = find(SYSTEMS, name, "system", OPTION), f"{OPTION} {name}={path}"
        of = _built if looks_like_bundle(Path(path)) else _to_build
        place, plan = of(system, Path(path), bundle.manifest, sources, device, where)
        skips = f", {len(plan.skipped)} of {plan.sites} skipped" if plan.skipped else ""
        found[name] = Contestant(Baseline(name, "", system.what + skips), place)
    return found


def _built(
    system: System, path: Path, m: Manifest, sources: Sources | None, device: str, where: str
) -> tuple[Callable, SkipPlan]:
    other = open_bundle(path).manifest
    _require_same_model(other.config, m.config, where)
    wanted = {
        "precision": (other.precision, m.precision),
        "fold": (other.fold, system.fold or other.fold),
        "max-prompt": (other.limits.max_prompt, m.limits.max_prompt),
        "max-tokens": (other.limits.max_tokens, m.limits.max_tokens),
    }
    if other_options := {option: pair for option, pair in wanted.items() if pair[0] != pair[1]}:
        option, (has, needs) = next(iter(other_options.items()))
        what = f"that bundle was built with --{option} {has}, to be compared it needs {needs}"
        options = " ".join(f"--{name} {pair[1]}" for name, pair in wanted.items())
        raise UserError(what, where=where, fix=f"build it with {options}, or give its checkpoint")
    _require_skips(system, other.config, other.plan, where)
    return lambda bundles, folder: path, other.plan


def _to_build(
    system: System, path: Path, m: Manifest, sources: Sources | None, device: str, where: str
) -> tuple[Callable, SkipPlan]:
    takes = detect(path).takes
    beside = {name: getattr(sources, name) for name in ("weights", "vision", "base_weights", "tokenizer") if sources}
    given = {name: value for name, value in (beside | m.options.settings).items() if name in takes}
    checkpoint = load_checkpoint(Sources(path, **given), m.config.family)
    _require_same_model(checkpoint.config, m.config, where)
    known = fold_modes(checkpoint.config)
    fold = system.fold or known[0]
    if fold not in known:
        what = f"that checkpoint's model has no fold mode {fold}, only {', '.join(known)}"
        raise UserError(what, where=where, fix="give a checkpoint of the system that the name says")
    try:
        plan = choose_plan(checkpoint.config.sites, checkpoint.evidence, site=checkpoint.config.site)
    except UserError as error:
        fix = "build it with --skip and the list that it was trained with, and give that bundle"
        raise UserError(error.what, where=where, fix=fix) from None
    _require_skips(system, checkpoint.config, plan, where)
    asked = {"fold": fold}
    if target := engine_target(m, device):
        asked |= {"backend": target.backend, "engine_weights": target.weights}
        asked |= {"compute_capability": m.options.compute_capability}
    return partial(_build, sources=Sources(path, **given), config=checkpoint.config, asked=asked), plan


def _build(
    bundles: BaselineBundles, folder: Path, sources: Sources, config: AnyConfig, asked: Mapping[str, str | None]
) -> Path:
    """Over the bundle's weights, where at least half of the system's are the same; else alone."""
    with suppress(UserError):
        build_from(bundles, sources, config, folder, base=bundles.bundle.path, **asked)
        return folder
    build_from(bundles, sources, config, folder, base=None, **asked)
    return folder


def _require_same_model(other: AnyConfig, own: AnyConfig, where: str) -> None:
    for field in SAME:
        theirs, ours = (getattr(config, field, None) for config in (other, own))
        if theirs != ours:
            what = f"another model than the bundle's: its {field} is {theirs}, the bundle's is {ours}"
            raise UserError(what, where=where, fix="give a checkpoint over the base model that the bundle is over")


def _require_skips(system: System, config: AnyConfig, plan: SkipPlan, where: str) -> None:
    skips = config.site if plan.skipped else None
    if skips != system.skips:
        does, should = (f"skips {each}s" if each else "skips nothing" for each in (skips, system.skips))
        what = f"that model {does}, but the system of that name {should}"
        raise UserError(what, where=where, fix="give a checkpoint of the system that the name says")
