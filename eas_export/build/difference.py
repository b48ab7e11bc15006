"""In what a bundle differs from the one that a build would make, for the message that refuses to replace it."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..bundle.manifest import Manifest, SourceRecord, Target
from ..core.configs import AnyConfig
from ..core.options import BuildOptions, options_of
from ..core.plan import SkipPlan
from .artifacts import Blueprint
from .keys import Identity


def first_difference(blueprint: Blueprint, identity: Identity, m: Manifest) -> str:
    """The first thing in which a build differs from a bundle whose key is another: a file, an option, a fact of the model, a tool."""
    digests = [{source.sha256 for source in each.sources} for each in (identity, m)]
    for sources, others, said in (
        (identity.sources, digests[1], "is not a file that the bundle was made from"),
        (m.sources, digests[0], "of the bundle's checkpoint is not in this one"),
    ):
        if new := next((source.name for source in sources if source.sha256 not in others), None):
            return f"{new} {said}"
    ours = _facts(blueprint.checkpoint.config, blueprint.plan, identity.options, blueprint.targets)
    targets = {record.engine.target.backend: record.engine.target for record in m.engine_files.values()}
    theirs = _facts(m.config, m.plan, m.options, targets.values())
    ours |= identity.toolchain | _base(identity.base)
    theirs |= m.toolchain | _base(m.base)
    if not (found := differing(ours, theirs)):
        return "another version of eas-export made it"
    name, our, their = found
    return f"{name} is {_shown(our)}, the bundle's {_shown(their)}"


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first of two records' innermost fields that differs, by its dotted name, and both values, None where one lacks it."""
    ours, theirs = _flat(ours), _flat(theirs)
    names = (name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
    return next(((name, ours.get(name), theirs.get(name)) for name in names), None)


def _flat(record: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= _flat(value, f"{start}{name}.") if isinstance(value, dict) else {f"{start}{name}": value}
    return flat


def _facts(config: AnyConfig, plan: SkipPlan, options: BuildOptions, targets: Iterable[Target]) -> dict[str, Any]:
    """What decides a bundle beside files and tools, by name."""
    elsewhere = ("plan", "limits", "targets")  # in a form that does not depend on how they were given
    own = [
        n for n, each in options_of(BuildOptions).items() if not each.of_checkpoint and each.shown_by not in elsewhere
    ]
    facts = {"skip": plan.skipped} | {name: getattr(options, name) for name in own} | options.limits.model_dump()
    facts |= {"backend": tuple(target.backend for target in targets) or BuildOptions().backend}
    for target in targets:
        facts |= {f"{target.backend}'s {name}": value for name, value in target if name != "backend"}
    return facts | config.model_dump()


def _base(base: SourceRecord | None) -> dict[str, Any]:
    return {"base": base and f"{base.name}, sha256 {base.sha256[:12]}"}


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if value not in (None, ()) else "none"
