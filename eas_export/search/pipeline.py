"""The whole search: put adapters into every layer, train with random skips while the bandit evaluates, choose, train with the chosen
skips, and write a checkpoint that `build` reads.

While it runs, `out` has search.json, the report so far, and state.safetensors, the trained tensors. An interrupted search continues from
them, with the same outcome as one that was not interrupted. It is saved every few minutes, and when Ctrl-C or SIGTERM ends it.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from .. import __version__
from ..backends.runtime import device_named
from ..build.keys import hash_sources
from ..core.errors import UserError
from ..core.plan import EXPLICIT, make_plan, parse_skip
from ..core.progress import Progress
from ..core.record import refusal
from ..families import FAMILIES, detect, get_family, load_checkpoint, make_tokenizer, require_taken
from ..families.contract import Ranks, Sources, Trainable
from ..system.hashing import sha256_of
from ..system.memory import enough_memory
from .bandit import Bandit, get_policy
from .examples import Examples
from .folder import load_report, lock
from .report import SearchOptions, SearchReport
from .run import STATE, Run, split

LESS = "start again in another --out, with a smaller --batch, shorter questions, narrower adapters or --precision bf16"


def search(
    ckpt: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    count: int | None = None,
    skip: str | None = None,
    vision: Path | str | None = None,
    tokenizer: Path | str | None = None,
    device: str | None = None,
    image_root: Path | str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> SearchReport:
    """Find the attentions that a model can do without, and train the adapters that replace them.

    ckpt, vision, tokenizer  see families/contract.Sources: a model with all its attentions, with or without adapters
    data          a JSON-lines file of questions with answers (see calibration/README.md)
    image_root    the folder that has the questions' images; None: that of `data`
    out           a folder for the checkpoint and search.json; an interrupted search in it is resumed
    count         number of attentions to skip, chosen by the bandit
    skip          or the attentions themselves, as for `build`: then there is no search, only training
    device        cpu or cuda; None: cuda if available
    options       those of report.SearchOptions

    Raises UserError for anything the user can fix; what was done until then stays in `out`.
    """
    progress, ckpt, data, out = progress or Progress(), Path(ckpt), Path(data), Path(out)
    if (count is None) == (skip is None):
        what = "a search needs either the number of attentions to skip or a list of them"
        raise UserError(what, where="search", fix="pass one of --count and --skip")
    skipped = None if skip is None else parse_skip(skip, EXPLICIT)
    counted = {"count": count if skipped is None else len(skipped), "skip": skipped}
    try:
        opts = SearchOptions(**counted, **options)
    except ValidationError as error:
        raise refusal(error, SearchOptions, "option", "search") from None
    get_policy(opts.policy)
    where = device_named(device)
    with enough_memory(where, LESS):
        trainable = _load(Sources.given("search", ckpt, vision=vision, tokenizer=tokenizer), opts, where)
    checkpoint = trainable.checkpoint
    config, sites = checkpoint.config, checkpoint.config.sites
    if skip is not None:
        make_plan(sites, skip, EXPLICIT)
    elif not 1 <= count <= sites:
        what = f"--count is {count}, out of range 1 to {sites}: the model has {sites} attentions"
        raise UserError(what, where="--count", fix=f"give 1 to {sites}")
    tokenizer = make_tokenizer(checkpoint.tokenizer, config)
    examples = Examples(data, config, detect(ckpt), tokenizer, image_root and Path(image_root))
    split(len(examples), opts)
    images = examples.read_images(progress)
    sources = [record.sha256 for record in hash_sources(checkpoint, progress)]
    begin = SearchReport(
        version=__version__,
        options=opts,
        sources=(*sources, sha256_of(data), images),
        bandit=Bandit(policy=opts.policy, sites=sites, count=opts.count, seed=opts.seed),
        skipped=skipped,
        questions=len(examples),
        trained_parameters=sum(t.numel() for t in trainable.adapters.values()),
    )
    with lock(out):
        earlier = load_report(out)
        if earlier is not None and earlier.version != begin.version:
            what = f"the folder has a search by version {earlier.version}, but this is {begin.version}"
            raise UserError(what, where=out, fix="choose another --out")
        if earlier is not None and earlier.identity != begin.identity:
            what = "the folder has another search, with other options or files"
            raise UserError(what, where=out, fix="choose another --out")
        if earlier is not None and earlier.ended:
            try:
                load_checkpoint(Sources(out))
            except UserError as error:
                what = f"this search has ended, but its checkpoint is damaged: {error.what}"
                fix = "delete the folder to search again, or choose another --out"
                raise UserError(what, where=out, fix=fix) from None
            (out / STATE).unlink(missing_ok=True)
            return earlier
        with enough_memory(where, LESS):
            run = Run(earlier or begin, trainable, examples, where, out, progress)
            with run.saved_when_interrupted():
                run.explore()
                run.tune()
                trainable.write(run.report.skipped, out, progress)
                return run.end()


def _load(sources: Sources, options: SearchOptions, device: torch.device) -> Trainable:
    family = detect(sources.ckpt)
    if family.train is None or family.prompts is None:
        what = f"search does not support {family.name} models"
        able = [family for family in map(get_family, FAMILIES) if family.train]
        layouts = "; ".join(f"{family.name}: {family.layout}" for family in able)
        raise UserError(what, where=sources.ckpt, fix=f"give one of these: {layouts}")
    require_taken(sources, family)
    ranks = Ranks(options.kept_rank, options.skipped_rank)
    trainable = family.train(sources, ranks, options.seed, device)
    if not trainable.checkpoint.tokenizer:
        what = "the checkpoint has no tokenizer"
        raise UserError(what, where=sources.ckpt, fix="pass the model's own: --tokenizer PATH")
    return trainable
