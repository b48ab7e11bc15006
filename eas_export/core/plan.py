"""The skip plan: which attentions, or layers, are skipped, its text forms, and who decided it."""

import re
from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from .errors import UserError
from .record import Record

Site = Literal["attention", "layer"]  # what a skip leaves out
EXPLICIT = "--skip"  # the origin of an explicit choice
WHERE_KEPT = {"attention": "before attentions", "layer": "in layers"}  # of what is kept, by what a site is


class SkipPlan(Record):
    """The attentions that are skipped, in ascending order.

    sites    number of attentions that could be skipped; a decoder's are its layers
    skipped  indices into them
    origin   who decided ("--skip", "recipe lavin-7b.yaml", "args.skip_list of checkpoint-19.pth")
    """

    sites: int = Field(gt=0, le=1000)
    skipped: tuple[int, ...]
    origin: str

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.sites) if i not in self.skipped)


class SkipEvidence(Record):
    """The skip list that a checkpoint records; `text` is None where it records none."""

    text: str | None
    origin: str


def parse_skip(text: str, where: str) -> tuple[int, ...]:
    """Read "20-31,5", "[24, 23]" or "none" as indices in ascending order. Raises UserError for anything else, "" and "[]" too."""
    body = text.strip().removeprefix("[").removesuffix("]").strip()
    if body.lower() == "none":
        return ()
    indices: set[int] = set()
    for part in body.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?", part)
        if not match:
            what = f"skip list {text!r} has an invalid part {part.strip()!r}"
            raise UserError(what, where=where, fix="write indices and ranges such as 20-31,5, or none")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"skip range {part.strip()!r} runs backwards", where=where, fix=f"write {last}-{first}")
        named = set(range(first, last + 1))
        if named & indices:
            what = f"skip list names index {min(named & indices)} twice"
            raise UserError(what, where=where, fix="name each index once")
        indices |= named
    return tuple(sorted(indices))


def make_plan(sites: int, text: str, origin: str, site: Site = "attention") -> SkipPlan:
    """The plan that `text` describes for a model with this many sites. Raises UserError for an index out of range.

    site  what a site is, for messages
    """
    skipped = parse_skip(text, origin)
    for index in skipped:
        if index >= sites:
            what = f"skip index {index} is out of range: the model has {site}s 0-{sites - 1}"
            raise UserError(what, where=origin, fix=f"give indices from 0 to {sites - 1}")
    return SkipPlan(sites=sites, skipped=skipped, origin=origin)


def choose_plan(
    sites: int,
    evidence: SkipEvidence,
    explicit: str | None = None,
    recipe: tuple[str, str] | None = None,
    site: Site = "attention",
) -> SkipPlan:
    """Decide what is skipped. Raises UserError where nothing says, or where recipe and checkpoint disagree.

    explicit  the text of --skip; it wins over everything
    recipe    (name, text): a published list, used where the checkpoint records none; it never overrides a record
    site      what a site is, for messages
    """
    if explicit is not None:
        return make_plan(sites, explicit, EXPLICIT, site)
    name = f"pass --skip with the {site}s that training skipped (of 0-{sites - 1}, such as 3-5,1), or --skip none"
    try:
        recorded = _recorded(sites, evidence, site)
    except UserError as error:
        raise UserError(error.what, where=error.where, fix=name) from None
    if recipe is not None:
        plan = make_plan(sites, recipe[1], f"recipe {recipe[0]}", site)
        if recorded is not None and recorded.skipped != plan.skipped:
            what = f"the recipe skips {recipe[1]}, but the checkpoint was trained with {evidence.text} skipped"
            fix = f"pass --skip {evidence.text.strip('[]').replace(' ', '')} to follow the checkpoint"
            raise UserError(what, where=evidence.origin, fix=fix)
        return recorded or plan
    if recorded is not None:
        return recorded
    record = "" if evidence.text is None else f" (its list is {evidence.text!r})"
    what = f"the checkpoint does not say which {site}s are skipped{record}"
    raise UserError(what, where=evidence.origin, fix=name)


def disagreement(
    plan: SkipPlan,
    evidence: SkipEvidence,
    attentions: Callable[[Iterable[int]], frozenset],
    adapters: bool = True,
    site: Site = "attention",
) -> tuple[str, ...]:
    """Notes where the plan is not what the checkpoint records: that may be intended, but untrained adapters are used then.

    attentions  sites -> the attentions that they stand for (the config's method): two sites may stand for one
    adapters    whether any adapters are used
    site        what a site is, for messages
    """
    try:
        recorded = _recorded(plan.sites, evidence, site)
    except UserError as error:
        return (f"{evidence.origin} is not used: {error.what}",)
    trained = plan.skipped if recorded is None else recorded.skipped
    kept = [site for site in trained if attentions([site]).isdisjoint(attentions(plan.skipped))]
    skipped = [site for site in plan.skipped if attentions([site]).isdisjoint(attentions(trained))]
    notes = []
    if kept or skipped:
        notes.append(
            f"{plan.origin} is not what the checkpoint was trained with: {evidence.origin} says {evidence.text}"
        )
    if kept and adapters:
        notes.append(f"adapters {WHERE_KEPT[site]} that training skipped are untrained: {_listed(kept)}")
    if skipped and adapters:
        notes.append(f"adapters replacing {site}s that training kept are untrained: {_listed(skipped)}")
    return tuple(notes)


def _listed(sites: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(sites)))


def _recorded(sites: int, evidence: SkipEvidence, site: Site) -> SkipPlan | None:
    """The plan that the checkpoint records. Raises UserError for a list that cannot be one of this model."""
    has_list = (evidence.text or "").strip() not in ("", "[]")
    return make_plan(sites, evidence.text, evidence.origin, site) if has_list else None
