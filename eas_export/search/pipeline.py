"""The whole way of a search: adapters into every layer, training with skips of chance while the bandit looks on, the choice, training
with the chosen skips, and a checkpoint that `build` reads.

In `out` while it goes on: search.json, what was seen so far, and state.safetensors, what was trained. A search that ended before its time
goes on from them, and comes to the same end as one that was not interrupted.
"""

from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..backends.runtime import device_named
from ..build.keys import hash_sources
from ..bundle.manifest import SENTENCEPIECE
from ..core.errors import UserError
from ..core.plan import EXPLICIT, make_plan, parse_skip
from ..core.progress import Progress
from ..core.record import validated
from ..families import detect, load_checkpoint
from ..families.contract import Ranks, Sources, Trainable
from ..families.processing.tokenizer import Tokenizer
from ..system.hashing import sha256_of
from ..system.memory import enough_memory
from .bandit import Bandit, get_policy
from .examples import Examples
from .folder import load_report, lock
from .report import SearchOptions, SearchReport
from .run import STATE, Run, split

LESS = "begin anew in another --out, with a smaller --batch, shorter questions, narrower adapters or --precision bf16"


def search(
    ckpt: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    count: int | None = None,
    skip: str | None = None,
    vision: Path | str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> SearchReport:
    """Find the attentions that a model can do without, and train what stands in for them.

    ckpt, vision  see families/contract.Sources: a model before attentions were cut out, with or without adapters
    data          a JSON-lines file of questions with answers (see calibration/README.md)
    out           a folder for the checkpoint and search.json; also one in which the same search ended before its time
    count         attentions to skip, found out by the bandit
    skip          or the very ones, as `build` takes them: then nothing is searched
    device        cpu or cuda; None: cuda where there is one
    options       those of report.SearchOptions

    Raises UserError for anything the user can mend; what was done until then stays in `out`.
    """
    progress, ckpt, data, out = progress or Progress(), Path(ckpt), Path(data), Path(out)
    if (count is None) == (skip is None):
        what = "either the number of attentions to skip, or a list of them"
        raise UserError(what, where="search", fix="pass one of --count and --skip")
    given = None if skip is None else parse_skip(skip, EXPLICIT)
    counted = {"count": count if given is None else len(given), "skip": given}
    opts = validated(SearchOptions, "search", "see eas-export search --help", **counted, **options)
    get_policy(opts.policy)
    where = device_named(device)
    with enough_memory(where, LESS):
        trainable = _load(Sources.given("search", ckpt, vision=vision), opts, where)
    checkpoint = trainable.checkpoint
    config, sites = checkpoint.config, checkpoint.config.sites
    if skip is not None:
        make_plan(sites, skip, EXPLICIT)
    elif opts.count > sites:
        what = f"{opts.count} attentions cannot be skipped: there are {sites}"
        raise UserError(what, where="--count", fix=f"give a number up to {sites}")
    tokenizer = Tokenizer(checkpoint.tokenizer, config.vocab_size)
    examples = Examples(data, config, detect(ckpt), tokenizer)
    split(len(examples), opts)
    images = examples.read_images(progress)
    sources = [record.sha256 for record in hash_sources(checkpoint, progress)]
    begin = SearchReport(
        version=__version__,
        options=opts,
        sources=(*sources, sha256_of(data), images),
        bandit=Bandit(policy=opts.policy, sites=sites, count=opts.count, seed=opts.seed),
        skipped=given,
        questions=len(examples),
        trained_parameters=sum(t.numel() for t in trainable.adapters.values()),
    )
    with lock(out):
        there = load_report(out)
        if there is not None and there.version != begin.version:
            what = f"a search by version {there.version} was written there, and this is {begin.version}"
            raise UserError(what, where=out, fix="choose another --out")
        if there is not None and there.asked != begin.asked:
            raise UserError("another search was written there", where=out, fix="choose another --out")
        if there is not None and there.ended:
            try:
                load_checkpoint(Sources(out))
            except UserError as error:
                what = f"this search has ended, and its checkpoint is not whole any more: {error.what}"
                raise UserError(
                    what, where=out, fix="delete the folder to search again, or choose another --out"
                ) from None
            (out / STATE).unlink(missing_ok=True)
            return there
        with enough_memory(where, LESS):
            run = Run(there or begin, trainable, examples, where, out, progress)
            run.explore()
            run.tune()
        trainable.write(run.report.skipped, out, progress)
        return run.end()


def _load(sources: Sources, options: SearchOptions, device: torch.device) -> Trainable:
    family = detect(sources.ckpt)
    if family.train is None or family.prompts is None:
        what = f"a {family.name} model cannot be searched here"
        raise UserError(what, where=sources.ckpt, fix="give a LLaVA model in its Hugging Face folder")
    ranks = Ranks(options.kept_rank, options.skipped_rank)
    trainable = family.train(sources, ranks, options.seed, device)
    if not trainable.checkpoint.tokenizer:
        raise UserError(f"there is no {SENTENCEPIECE}", where=sources.ckpt, fix="copy the model's own there")
    return trainable
