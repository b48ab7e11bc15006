"""eas-export inspect"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ..accounts import Accounts
from ..any_config import AnyConfig
from ..config import AdapterConfig, ModelConfig
from ..cross_encoder_config import CrossEncoderConfig
from ..errors import UserError
from ..plan import SkipPlan
from .output import PATH, as_plain, json_option, print_json, size, stdout_console, table
from .progress import make_progress
from .sources import path_options, setting_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..bundle import FileRecord
    from ..export.memory import DeviceMemory, RequestMemory
    from ..progress import Progress


@click.command()
@click.argument("path", type=PATH)
@path_options
@click.option("--skip", metavar="LAYERS", help="Look at the checkpoint with these attentions skipped: 20-31,5 or none.")
@setting_options
@click.option("--check", is_flag=True, help="Of a bundle, read every byte and compare its sha256 with the manifest's.")
@json_option
def inspect(path: Path, skip: str | None, check: bool, as_json: bool, **sources: Any) -> None:
    """Show what is in a checkpoint or a bundle.

    Layers kept and skipped, adapter ranks, parameters and bytes before and after pruning, what a request takes in each fold mode.
    Reads no tensors (but for --check). Bytes of a checkpoint are counted in fp16, of a bundle in its own precision.

    \b
    eas-export inspect data/
    eas-export inspect lavin-7b.bundle --json
    """
    is_bundle = (path / "manifest.json").is_file()
    if is_bundle and any(value is not None for value in (skip, *sources.values())):
        raise UserError("it is a bundle, and these options belong to a checkpoint", where=path, fix="leave them out")
    if check and not is_bundle:
        raise UserError(
            "--check belongs to a bundle", where=path, fix="leave it out; verify compares with a checkpoint"
        )
    if check:
        _check_files(path, make_progress(as_json))
    facts = _bundle_facts(path) if is_bundle else _checkpoint_facts(path, skip, **sources)
    if as_json:
        print_json({key: as_plain(value) for key, value in facts.items()})
        return
    console = stdout_console()
    config, plan = facts["config"], facts["plan"]
    console.print(f"{path}: {facts['kind']}, {config.family}")
    console.print(model_table(config, plan))
    console.print(accounts_table(facts["accounts"]))
    if facts["requests"]:
        console.print(memory_table(facts["requests"]))
    if facts.get("files"):
        rows = [[name, size(number)] for name, number in facts["files"].items()]
        console.print(table("files", ["file", "size"], rows, numbers=1))
        limits = ", ".join(f"{name} {value}" for name, value in facts["limits"].items())
        console.print(f"precision {facts['precision']}, fold {facts['fold']}; limits: {limits}")
        console.print(device_table(facts["device_memory"]))
        if facts["engines"]:
            console.print(engines_table(facts["engines"]))
        for backend, number in facts["weights_in_memory"].items():
            said = f"{size(number)}, widened for each graph" if number else "none, they stay mapped"
            console.print(f"private memory of the weights on {backend}: {said}")
        if facts["base"]:
            console.print(f"weights.safetensors is shared with {facts['base'].name}, its --base")
        if check:
            console.print("every file's sha256 is the manifest's")
    for note in facts["notes"]:
        console.print(f"note: {note}")


def model_table(config: AnyConfig, plan: SkipPlan) -> Table:
    gone = config.attentions(plan.skipped)
    left = [site for site in plan.kept if gone.isdisjoint(config.attentions([site]))]
    skipped, kept = (", ".join(map(str, sites)) or "none" for sites in (plan.skipped, left))
    rows = [
        ["attention skipped", f"{len(plan.skipped)} of {plan.sites}: {skipped}  (from {plan.origin})"],
        ["attention kept", f"{len(left)}: {kept}"],
    ]
    return table("model", ["", ""], MODEL_ROWS[config.kind](config) + rows)


def _decoder_rows(config: ModelConfig) -> list[list[str]]:
    vision = config.vision
    rows = [
        [
            "layers",
            f"{config.layers} of width {config.dim}, {config.heads} heads ({config.kv_heads} of keys and values), feed-forward {config.ffn_dim}, vocabulary {config.vocab_size}",
        ],
        [
            "adapter ranks",
            f"kept {_rank(config.kept_adapter)}, skipped {_rank(config.skipped_adapter)}, vision {_rank(vision.adapter)}",
        ],
        *(
            [["scale, temperature", f"{config.kept_adapter.scale:g}, {config.kept_adapter.temperature:g}"]]
            if config.kept_adapter
            else []
        ),
        [
            "vision",
            f"{vision.blocks} blocks of width {vision.width}, {vision.image_size} pixels, {vision.tokens} tokens per image",
        ],
    ]
    return rows


def _cross_encoder_rows(config: CrossEncoderConfig) -> list[list[str]]:
    text, image = config.text, config.image
    streams = f"{config.layers} layers each of width {config.dim}, {config.heads} heads, feed-forward {config.ffn_dim}"
    return [
        [
            "task",
            f"{config.task}, answers chosen among {config.answers}"
            if config.answers > 1
            else f"{config.task}, a score",
        ],
        ["text and image stream", streams],
        [
            "text encoder",
            f"{text.layers} layers of width {text.width}, {text.heads} heads, vocabulary {text.vocab_size}, {config.text_length} tokens",
        ],
        [
            "image encoder",
            f"{image.blocks} blocks of width {image.width}, {image.image_size} pixels, {config.image_tokens} tokens",
        ],
        ["adapter ranks", f"those that fold {config.adapter_rank}, of skipped attentions {config.skipped_rank}"],
        ["sites 18-23 of 24" if config.sites == 24 else "last group of sites", READINGS[config.image_cross_reading]],
    ]


READINGS = {
    "published": "the image stream's self-attentions again, as published",
    "paper": "the image stream's cross-attentions, as in the paper",
}

# Kind of network (a config's) -> config -> the rows that describe it
MODEL_ROWS = {"decoder": _decoder_rows, "cross-encoder": _cross_encoder_rows}


def _rank(adapter: AdapterConfig | None) -> str:
    return "none" if adapter is None else str(adapter.rank)


def accounts_table(accounts: Accounts) -> Table:
    """Parameters, bytes and cache before and after pruning."""
    before, after = accounts.before, accounts.after
    rows = [[part, f"{n:,}", f"{after.parameters.get(part, 0):,}"] for part, n in before.parameters.items()]
    rows += [
        ["all parameters", f"{before.total_parameters:,}", f"{after.total_parameters:,}"],
        ["their size in this precision", size(before.total_bytes), size(after.total_bytes)],
    ]
    if before.kv_bytes_per_token:
        rows.append(["KV cache per token", size(before.kv_bytes_per_token), size(after.kv_bytes_per_token)])
    if before.flops:
        rows.append(["GFLOPs of one pass", f"{before.flops / 1e9:.2f}", f"{after.flops / 1e9:.2f}"])
    return table("parameters", ["", "before pruning", "after"], rows, numbers=2)


def memory_table(requests: "dict[str, RequestMemory]") -> Table:
    """What one request takes beside the shared weights, in each fold mode."""
    each = requests.values()
    rows = [
        ["KV cache per token", *(size(mode.kv_bytes_per_token) for mode in each)],
        ["fold state", *(f"{mode.fold_state_numbers} numbers, {size(mode.fold_state_bytes)}" for mode in each)],
        ["folded weights", *(size(mode.folded_weights_bytes) for mode in each)],
    ]
    return table("a request's memory beside the weights, by --fold", ["", *requests], rows, numbers=len(requests))


def device_table(memory: "DeviceMemory") -> Table:
    """A GPU's memory for both ways that engines can have their weights."""
    rows = [
        [way, size(weights), size(memory.requests), size(weights + memory.requests)]
        for way, weights in (("bound", memory.bound), ("embedded", memory.embedded))
    ]
    columns = ["--engine-weights", "weights", "caches and folded weights", "together"]
    return table("a GPU's memory for TensorRT engines, beside what a step computes with", columns, rows, numbers=3)


def engines_table(files: "Mapping[str, FileRecord]") -> Table:
    """What was built for which GPUs. Built is all that it says: engines run where there is such a GPU."""
    rows = [
        [
            record.engine.graph,
            f"{record.engine.target.backend} {record.engine.target.version}",
            ", ".join(record.engine.target.compute_capabilities),
            record.engine.target.weights,
            record.engine.attention,
            size(record.bytes),
            f"{record.engine.seconds:.1f} s",
        ]
        for record in files.values()
    ]
    columns = ["graph", "built by", "for compute capability", "weights", "attention", "size", "in"]
    return table("engines", columns, rows, numbers=2)


def _check_files(path: Path, progress: "Progress") -> None:
    from ..backends.opening import require_own_graphs_and_weights
    from ..bundle import open_bundle

    bundle = open_bundle(path)
    require_own_graphs_and_weights(bundle)
    with progress.stage("checking files", bundle.nbytes) as done:
        bundle.require_whole(done)


def _bundle_facts(path: Path) -> dict:
    from ..backends.opening import weights_in_memory
    from ..bundle import open_bundle
    from ..export.memory import device_memory, request_memory
    from ..precision import PRECISIONS

    bundle = open_bundle(path)
    m = bundle.manifest
    used = {dim.limit for spec in m.graphs.values() for dim in spec.dims.values()}
    limits = {name: value for name, value in m.limits.model_dump().items() if name.replace("_", "-") in used}
    return {
        "kind": "bundle",
        "config": m.config,
        "plan": m.plan,
        "accounts": m.accounts,
        "requests": request_memory(m.config, m.plan, PRECISIONS[m.precision]),
        "precision": m.precision,
        "fold": m.fold,
        "limits": limits,
        "files": {name: record.bytes for name, record in m.files.items()},
        "base": m.base,
        "weights_in_memory": weights_in_memory(bundle),
        "device_memory": device_memory(
            m.config,
            m.plan,
            PRECISIONS[m.precision],
            m.limits,
            m.fold,
            {name: entry.nbytes for name, entry in bundle.store.entries.items()},
        ),
        "engines": m.engine_files,
        "toolchain": m.toolchain,
        "notes": m.notes,
    }


def _checkpoint_facts(path: Path, skip: str | None, **sources: Any) -> dict:
    from ..export.memory import request_memory
    from ..families import load_checkpoint
    from ..family import Sources
    from ..plan import choose_plan, disagreement, make_plan
    from ..precision import PRECISIONS
    from ..recipe import resolve
    from ..rewrite.accounting import account

    paths = {name: sources.pop(name) for name in ("weights", "vision", "base_weights")}
    checkpoint = load_checkpoint(Sources(path, **paths, **resolve(None, sources).options.settings))
    notes = list(checkpoint.notes)
    try:
        plan = choose_plan(checkpoint.config.sites, checkpoint.evidence, skip)
    except UserError as error:
        if skip is not None:
            raise
        plan = make_plan(checkpoint.config.sites, "none", "no skip list found")
        notes.append(f"{error.what}; shown without skipping")
    notes += (
        *checkpoint.config.notes(plan.skipped),
        *disagreement(plan, checkpoint.evidence, checkpoint.config.attentions, checkpoint.config.has_adapters),
    )
    precision = PRECISIONS["fp16"]
    accounts = account(checkpoint, plan, precision.dtype)
    return {
        "kind": "checkpoint",
        "config": checkpoint.config,
        "plan": plan,
        "accounts": accounts,
        "requests": request_memory(checkpoint.config, plan, precision),
        "notes": tuple(notes),
    }
