"""The options that say where a checkpoint's files are: the same for every command that reads one."""

from collections.abc import Callable

import click

from .output import PATH


def path_options(command: Callable) -> Callable:
    """--weights, --vision and --base-weights (see families/contract.Sources)."""
    options = (
        click.option("--weights", type=PATH, help="LaVIN: the LLaMA folder, where the checkpoint is the adapter file."),
        click.option("--vision", type=PATH, help="The CLIP file (LaVIN) or folder (LLaVA), where it lies elsewhere."),
        click.option(
            "--base-weights",
            type=PATH,
            metavar="DIR",
            help="LLaVA: the original model, for attentions that fine-tuning has removed.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
