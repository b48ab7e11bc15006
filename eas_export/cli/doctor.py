"""eas-export doctor"""

import click

from .output import Table, json_option, print_json, size, stdout_console
from .progress import make_progress


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Show what is installed, what could run here, and how to get what is missing.

    Exit 0: bundles can be built and run here; 1: a required package or backend is missing.
    """
    from ..doctor import doctor as examine

    health = examine(make_progress(as_json))
    print_json(health.model_dump(mode="json") | {"ok": health.ok}, as_json)
    if as_json:
        return 0 if health.ok else 1
    console = stdout_console()
    machine = health.machine
    rows = [
        ["system", f"{machine.system}, Python {machine.python}"],
        ["processor", f"{machine.cores} cores, {size(machine.memory_bytes)} of memory"],
        ["GPU", machine.gpu or "none visible to PyTorch"],
    ]
    console.print(Table("machine", ["", ""], rows))
    rows = [[p.name, p.used_for, p.wanted or "any", p.installed or "-", p.status] for p in health.packages]
    console.print(Table("packages", ["package", "for", "wanted", "installed", ""], rows))
    rows = [[name, b.version or "-", b.status] for name, b in health.backends.items()]
    console.print(Table("backends", ["backend", "version", "status"], rows))
    for name, command in health.commands.items():
        click.echo(f"to install what is missing for {name}:\n  {command}")
    for name, backend in health.backends.items():
        if backend.fix and backend.fix not in health.commands.values():
            console.print(f"to run {name}: {backend.fix}")
    for note in health.notes:
        console.print(f"note: {note}")
    return 0 if health.ok else 1
