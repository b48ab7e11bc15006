"""eas-export check"""

from collections import Counter
from pathlib import Path

import click

from ..backends import backends_that_run
from .output import PATH, Table, json_option, judged, print_json, stdout_console
from .progress import make_progress

BUILDERS = [*backends_that_run("engines")]


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--backend", default=BUILDERS[0], show_default=True, help=f"Whose parser reads the graphs: {' or '.join(BUILDERS)}."
)
@click.option("--layers", "list_layers", is_flag=True, help="List every layer instead of counts per kind alone.")
@json_option
def check(bundle: Path, backend: str, list_layers: bool, as_json: bool) -> int:
    """Show a bundle's graphs as TensorRT's parser sees them.

    Every graph is rewritten as for an engine and parsed. Nothing is built, and with tensorrt-rtx no GPU is needed. Exit 1 where an
    attention is decomposed or reads all of its cache, or where a cache is copied.

    \b
    eas-export check lavin-7b.bundle
    """
    from ..backends.checking import check as check_graphs
    from ..bundle.bundle import open_bundle

    opened = open_bundle(bundle)
    checks = check_graphs(opened, backend, make_progress(as_json))
    lost = {name: found.lost for name, found in checks.items() if found.lost}
    said = {
        name: found.model_dump(mode="json") | {"kinds": found.kinds, "lost": found.lost}
        for name, found in checks.items()
    }
    print_json({"bundle": str(bundle), "backend": backend, "ok": not lost, "graphs": said}, as_json)
    if as_json:
        return 1 if lost else 0
    console = stdout_console()
    rows = [
        [
            name,
            judged(not found.lost, found.lost or "as meant"),
            f"{found.fused} of {found.attentions}",
            f"{found.masked}",
            f"{found.in_place} of {found.caches}",
        ]
        for name, found in checks.items()
    ]
    columns = ["graph", "", "attentions recognised", "with a mask", "caches in place"]
    console.print(Table(f"{opened.path}, parsed by {backend}", columns, rows))
    counts = sum((Counter(found.kinds) for found in checks.values()), Counter())
    rows = [[kind, *(str(found.kinds.get(kind, "")) for found in checks.values())] for kind, _ in counts.most_common()]
    console.print(Table("layers as parsed, by kind", ["kind", *checks], rows, numbers=len(checks)))
    if list_layers:
        for name, found in checks.items():
            console.print(
                Table(f"layers of {name}", ["kind", "layer"], [[layer.kind, layer.name] for layer in found.layers])
            )
    return 1 if lost else 0
