"""eas-export inspect"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.configs import AnyConfig
from ..core.plan import SkipPlan
from ..networks import network_part
from .build_options import SETTINGS, build_options
from .output import PATH, Table, json_option, print_json, size, stdout_console
from .progress import make_progress
from .sources import path_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..bundle.manifest import Accounts, FileRecord
    from ..networks.memory import DeviceMemory, RequestMemory


@click.command()
@click.argument("path", type=PATH)
@path_options
@click.option("--skip", metavar="LAYERS", help="Show the checkpoint with these attentions skipped: 20-31,5 or none.")
@build_options(SETTINGS)
@click.option("--check", is_flag=True, help="Read every file of the bundle and compare its sha256 with the manifest's.")
@json_option
def inspect(path: Path, skip: str | None, check: bool, as_json: bool, **sources: Any) -> None:
    """Show what is in a checkpoint or a bundle.

    Layers kept and skipped, adapter ranks, parameters and bytes before and after pruning, memory per request in each fold mode. Only
    --check reads tensors. Bytes of a checkpoint are counted in fp16, those of a bundle in its own precision.

    \b
    eas-export inspect data/
    eas-export inspect lavin-7b.bundle --json
    """
    from ..inspect import BundleFacts
    from ..inspect import inspect as look

    facts = look(path, skip=skip, check=check, progress=make_progress(as_json), **sources)
    print_json(facts.model_dump(mode="json"), as_json)
    if as_json:
        return
    console = stdout_console()
    config, plan = facts.config, facts.plan
    console.print(f"{path}: {facts.kind}, {config.family}")
    if facts.system:
        console.print(f"system: {facts.system}" + (f", known by {facts.known_by}" if facts.known_by else ""))
    console.print(model_table(config, plan))
    console.print(accounts_table(facts.accounts, facts.precision))
    if facts.requests:
        console.print(memory_table(facts.requests))
    if isinstance(facts, BundleFacts):
        rows = [[name, size(number)] for name, number in facts.files.items()]
        console.print(Table("files", ["file", "size"], rows, numbers=1))
        limits = ", ".join(f"{name} {value}" for name, value in facts.limits.items())
        console.print(f"precision {facts.precision}, fold {facts.fold}; limits: {limits}")
        console.print(device_table(facts.device_memory))
        if facts.engines:
            console.print(engines_table(facts.engines))
        for backend, number in facts.weights_in_memory.items():
            said = f"{size(number)}, widened in each graph" if number else "none, the file is memory-mapped"
            console.print(f"private memory of the weights on {backend}: {said}")
        if facts.base:
            console.print(f"weights.safetensors is shared with {facts.base.name}, its --base")
        if check:
            console.print("the sha256 of every file is the manifest's")
    for note in facts.notes:
        console.print(f"note: {note}")


def model_table(config: AnyConfig, plan: SkipPlan) -> Table:
    gone = config.attentions(plan.skipped)
    left = [site for site in plan.kept if gone.isdisjoint(config.attentions([site]))]
    skipped, kept = (", ".join(map(str, sites)) or "none" for sites in (plan.skipped, left))
    rows = [
        [f"{config.site} skipped", f"{len(plan.skipped)} of {plan.sites}: {skipped}  (from {plan.origin})"],
        [f"{config.site} kept", f"{len(left)}: {kept}"],
    ]
    return Table("model", ["", ""], [*network_part(config, "describe")(config), *rows])


def accounts_table(accounts: "Accounts", precision: str) -> Table:
    """Parameters, bytes and cache before and after pruning, in a precision."""
    before, after = accounts.before, accounts.after
    both = ((part, n, after.parameters.get(part, 0)) for part, n in before.parameters.items())
    rows = [[part, f"{n:,}", f"{left:,}"] for part, n, left in both if n or left]
    rows += [
        ["all parameters", f"{before.total_parameters:,}", f"{after.total_parameters:,}"],
        [f"size in {precision}", size(before.total_bytes), size(after.total_bytes)],
    ]
    if before.kv_bytes_per_token:
        rows.append(["KV cache per token", size(before.kv_bytes_per_token), size(after.kv_bytes_per_token)])
    if before.flops:
        rows.append(["GFLOPs per pass", f"{before.flops / 1e9:.2f}", f"{after.flops / 1e9:.2f}"])
    return Table("parameters", ["", "before pruning", "after"], rows, numbers=2)


def memory_table(requests: "dict[str, RequestMemory]") -> Table:
    """Memory that one request takes in addition to the shared weights, in each fold mode."""
    each = requests.values()
    rows = [
        ["KV cache per token", *(size(mode.kv_bytes_per_token) for mode in each)],
        ["fold state", *(f"{mode.fold_state_numbers} numbers, {size(mode.fold_state_bytes)}" for mode in each)],
        ["folded weights", *(size(mode.folded_weights_bytes) for mode in each)],
    ]
    return Table(
        "memory of a request in addition to the weights, by --fold", ["", *requests], rows, numbers=len(requests)
    )


def device_table(memory: "DeviceMemory") -> Table:
    """GPU memory for both values of --engine-weights."""
    rows = [
        [way, size(weights), size(memory.requests), size(weights + memory.requests)]
        for way, weights in (("bound", memory.bound), ("embedded", memory.embedded))
    ]
    columns = ["--engine-weights", "weights", "caches and folded weights", "total"]
    return Table("GPU memory of TensorRT engines, without their workspace", columns, rows, numbers=3)


def engines_table(files: "Mapping[str, FileRecord]") -> Table:
    """Which engine was built for which GPUs."""
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
    columns = ["graph", "built by", "for compute capability", "weights", "attention", "size", "build time"]
    return Table("engines", columns, rows, numbers=2)
