"""The options that say where a checkpoint's files are and what they do not: the same for every command that reads one."""

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
    return _all(command, options)


def setting_options(command: Callable) -> Callable:
    """What a checkpoint may not say, or what is to be said otherwise (see core/options.BuildOptions)."""
    options = (
        click.option(
            "--router-temperature", type=float, metavar="T", help="Override or supply the router's temperature."
        ),
        click.option("--adapter-scale", type=float, metavar="S", help="Override or supply the adapters' scale."),
        click.option(
            "--text-heads", type=int, metavar="N", help="METER: heads of the text encoder, where the file cannot tell."
        ),
        click.option(
            "--image-cross-reading",
            type=click.Choice(["published", "paper"]),
            help="METER: sites 18-23 are image self-attentions again (published), or image cross-attentions (paper).",
        ),
    )
    return _all(command, options)


def _all(command: Callable, options: tuple[Callable, ...]) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command
