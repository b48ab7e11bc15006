"""eas-export run"""

from pathlib import Path

import click

from .output import PATH, TerminalProgress, json_option, print_json, stdout_console, table


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--inputs", type=PATH, required=True, help="An npz file; see above.")
@click.option("--outputs", type=PATH, help="Where to write logits and tokens.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Tokens to generate, unless the inputs force tokens.",
)
@click.option("--backend", default="onnxruntime", show_default=True, help="What runs the bundle's graphs.")
@json_option
def run(bundle: Path, inputs: Path, outputs: Path | None, max_new_tokens: int, backend: str, as_json: bool) -> None:
    """Run a bundle on prompts from an npz file.

    \b
    --inputs X.npz:
      input_ids       [B, S] integers, the image's placeholder zeros included, the modality token not
      prompt_lengths  [B] integers, default S
      pixel_values    [N, 3, H, W] floats, resized and normalised
      image_row       [N] integers, the row each image belongs to; a row without one is a text prompt
      forced_tokens   [steps, B] integers, optional: fed instead of the argmax
    --outputs Y.npz:
      logits          [steps + 1, B, vocab] float32: after the prompt and after each fed token
      tokens          [steps + 1, B] int64, argmax of the logits
    """
    from ..backends import open_runtime
    from ..bundle import open_bundle
    from ..families import get_family
    from ..files import require_writable
    from ..generate import generate
    from ..inputs import read_inputs, write_outputs

    if outputs:
        require_writable(outputs)
    opened = open_bundle(bundle)
    config = opened.manifest.config
    read = read_inputs(inputs, config, get_family(config.family))
    progress = TerminalProgress()
    with progress.stage("loading"):
        runtime = open_runtime(opened, backend)
    with progress.stage("running"):
        result = generate(runtime, read.prompts, steps=max_new_tokens - 1, forced=read.forced_tokens)
    if outputs:
        write_outputs(outputs, result)
    tokens = result.tokens.T.tolist()
    if as_json:
        print_json({"tokens": tokens, "outputs": str(outputs) if outputs else None, "backend": backend})
    else:
        rows = [[str(row), " ".join(map(str, ids))] for row, ids in enumerate(tokens)]
        stdout_console().print(table(f"{backend}, {result.logits.shape[0]} steps", ["row", "tokens"], rows))
