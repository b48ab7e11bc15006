"""Options for the paths of a user's files, the same in every command that reads them."""

from collections.abc import Callable

import click

from .output import PATH

tokenizer_option = click.option(
    "--tokenizer",
    type=PATH,
    help="The tokenizer's file or folder, if it is not inside the checkpoint; it wins over the checkpoint's.",
)
image_root_option = click.option(
    "--image-root", type=PATH, help="The folder of the images that a jsonl file names.  [default: the file's own]"
)


def path_options(command: Callable) -> Callable:
    """--weights, --vision, --base-weights and --tokenizer (see families/contract.Sources)."""
    options = (
        click.option("--weights", type=PATH, help="LaVIN: the LLaMA folder, if --ckpt is the adapter file."),
        click.option(
            "--vision", type=PATH, help="The CLIP file (LaVIN) or folder (LLaVA), if it is not inside the checkpoint."
        ),
        click.option(
            "--base-weights",
            type=PATH,
            metavar="DIR",
            help="LLaVA: the model that a LoRA in --ckpt was trained on, or the original one, for attentions that fine-tuning removed.",
        ),
        tokenizer_option,
    )
    for option in reversed(options):
        command = option(command)
    return command
