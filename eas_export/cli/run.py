"""eas-export run"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import UserError
from . import output
from .output import PATH, json_option, print_json, stdout_console
from .progress import make_progress
from .run_options import DEFAULT_NEW_TOKENS, RunOptions
from .sources import image_root_option

if TYPE_CHECKING:
    from ..bundle.bundle import Bundle
    from ..families.processing.question import Question
    from ..generation.sampling import Sampling


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--prompt", metavar="TEXT", help="Text for the model, verbatim after the family's image prefix; -: standard input."
)
@click.option(
    "--question",
    metavar="TEXT",
    help="A question, put into the model's chat template or the family's own format (LaVIN: ScienceQA's); -: standard input.",
)
@click.option("--context", metavar="TEXT", help="Background text for --question.")
@click.option("--system", metavar="TEXT", help="A system message before --question, or before a chat.")
@click.option("--option", "options", metavar="TEXT", multiple=True, help="An answer to choose from; repeatable.")
@click.option(
    "--image",
    type=PATH,
    metavar="FILE",
    multiple=True,
    help="An image for --prompt or --question; repeatable. METER: or a folder of them.",
)
@click.option("--chat", is_flag=True, help="Talk in turns, a line each; see above.")
@click.option("--inputs", type=PATH, help="An npz or a jsonl file, see above; -: jsonl on standard input.")
@image_root_option
@click.option("--exif-rotate", is_flag=True, help="Turn images as their EXIF data say, which no published code does.")
@click.option("--outputs", type=PATH, help="File to write: .npz for npz inputs, .jsonl for others.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the partial --outputs of an interrupted run on questions, if there is one.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help=f"Tokens to generate, unless the inputs force tokens.  [default: {DEFAULT_NEW_TOKENS}, in a chat 512]",
)
@click.option(
    "--top", type=click.IntRange(1), metavar="K", help="METER: how many answers, images or texts to show.  [default: 5]"
)
@click.option("--temperature", type=float, help="Sampling temperature.  [default: 0, greedy]")
@click.option(
    "--top-p", type=float, help="Sample from the likeliest tokens whose probabilities reach this sum.  [default: 1]"
)
@click.option("--seed", type=int, help="Seed of the sampling.  [default: 0]")
@click.option("--backend", default="onnxruntime", show_default=True, help="Backend that runs the bundle's graphs.")
@json_option
def run(
    bundle: Path,
    chat: bool,
    inputs: Path | None,
    image: tuple[Path, ...],
    image_root: Path | None,
    exif_rotate: bool,
    outputs: Path | None,
    resume: bool,
    max_new_tokens: int | None,
    top: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    backend: str,
    as_json: bool,
    **asked: str | tuple[str, ...] | None,
) -> None:
    """Run a bundle on a prompt, on a file of questions, or on token ids.

    \b
    eas-export run lavin-7b.bundle --prompt "What is shown?" --image cat.png
    eas-export run lavin-7b.bundle --question "Which is larger?" \\
        --option "the sun" --option "the moon"
    eas-export run lavin-7b.bundle --inputs questions.jsonl --outputs out.jsonl
    eas-export run lavin-7b.bundle --inputs questions.jsonl --outputs out.jsonl \\
        --resume
    eas-export run lavin-7b.bundle --chat --image cat.png
    echo "What is shown?" | eas-export run lavin-7b.bundle --question -
    eas-export run lavin-7b.bundle --inputs x.npz --outputs y.npz

    --chat answers line by line in one conversation: /reset forgets what was said, /image FILE starts again with an image, Ctrl-C ends an
    answer, Ctrl-D the chat. Why answers ended, and tokens per second, are on standard error.

    A row ends at the model's end token (eos), after --max-new-tokens (length), or at the bundle's --max-tokens (limit).
    A lowrank bundle answers as many questions at once as it was built for (--max-batch).

    A cross-encoder (METER) answers a --question about an --image with the likeliest of its answers, says whether a statement about two
    images is true, or ranks: a folder's images for a text, or the --options for an image. Texts may come from a file beside --image.

    \b
    eas-export run meter-vqa.bundle --image cat.png --question "What is it?"
    eas-export run meter-nlvr2.bundle --image left.png --image right.png \\
        --question "Both show a dog."
    eas-export run meter-f30k.bundle --image photos/ --question "a dog" --top 5
    eas-export run meter-f30k.bundle --image cat.png --inputs captions.txt

    A cross-encoder also takes --inputs X.npz with text_ids [M, L] and pixel_values [N, 3, H, W] (NLVR2: pixel_values_1 too),
    and text_masks [M, L], by default 0 where the id is 1. Texts are padded to the length of training. For retrieval one image goes
    with N texts, or one text with N images. It gives logits [B, answers] or scores [B], and cls_feats [B, width].

    \b
    --inputs X.jsonl, an object per line:
      {"prompt": ..} or {"question": .., "context": .., "options": [..]},
      and "image": a path, or a list of them, inside the file's folder or
      --image-root; or LLaVA's {"question_id": .., "text": .., "image": ..}
    --inputs X.npz:
      input_ids       [B, S] integers; LaVIN: with an image's placeholder zeros,
                      without the modality token; LLaVA: -200 for each image
      attention_mask  [B, S] 1 for tokens, 0 for padding on the left or right
      prompt_lengths  [B] integers, instead: padding is on the right; default S
      pixel_values    [N, 3, H, W] floats, resized and normalised
      image_row       [N] integers, each image's row; others are text prompts;
                      LLaVA: by default in the order of the -200
      forced_tokens   [steps, B] integers, optional: fed instead of the choices
    --outputs Y.npz:
      logits          [steps, B, vocab] float32, after prompt and fed tokens
      tokens          [steps, B] int64: chosen from the logits, -1 after a row's
                      end; argmax where tokens are forced
    """
    from ..bundle.bundle import open_bundle
    from ..networks import network_part

    sampling, progress = _sampling(temperature=temperature, top_p=top_p, seed=seed), make_progress(as_json)
    asked["image"] = tuple(map(str, image))
    opened = open_bundle(bundle)
    options = RunOptions(outputs, max_new_tokens, sampling, backend, as_json, progress, exif_rotate, resume, top)
    if chat:
        beside = {"inputs": inputs, "image-root": image_root, "outputs": outputs, "resume": resume, "top": top}
        beside |= {"json": as_json, "json-file": output.json_file}
        _chat(opened, asked | beside, options)
        return
    questions = _questions(inputs, image_root, asked)
    if exif_rotate and questions is None:
        fix = "leave --exif-rotate out"
        raise UserError("arrays have pixels, without a rotation beside them", where="--exif-rotate", fix=fix)
    if outputs:
        _check_outputs(outputs, inputs, ".npz" if questions is None else ".jsonl")
    if resume and (questions is None or not outputs):
        what = "only answers to questions are resumed, from the partial file of --outputs"
        raise UserError(what, where="--resume", fix="pass --outputs ANSWERS.jsonl, or leave --resume out")
    name, given = ("run_arrays", inputs) if questions is None else ("run_questions", questions)
    options.note_rotations(name for question in questions or () for name in question.image)
    record, shown = network_part(opened.manifest.config, name)(opened, given, options)
    print_json(record, as_json)
    if shown and not as_json:
        stdout_console().print(shown)


def _chat(bundle: "Bundle", beside: dict, options: RunOptions) -> None:
    """beside: what else the command line has, by the names of its options. Raises UserError for what does not go with a chat."""
    from ..networks import network_part

    images, system = beside.pop("image"), beside.pop("system")
    for name in (name for name, given in beside.items() if given):
        option = f"--{name.removesuffix('s') if name == 'options' else name}"
        fix = f"leave out {option}, or --chat"
        raise UserError("a chat reads its questions line by line, and prints the answers", where=option, fix=fix)
    run_chat = network_part(bundle.manifest.config, "run_chat")
    if run_chat is None:
        fix = "ask with --question and --image, or with --inputs"
        raise UserError("the bundle's model takes one question at a time", where="--chat", fix=fix)
    run_chat(bundle, images, options, system)


def _sampling(**given: float | int | None) -> "Sampling":
    from pydantic import ValidationError

    from ..core.record import refusal
    from ..generation.sampling import Sampling

    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen and not chosen.get("temperature", 0) > 0 and set(chosen) != {"temperature"}:
        what = "--top-p and --seed have no effect without a temperature"
        raise UserError(what, where="--temperature", fix="pass --temperature 0.7")
    try:
        return Sampling(**chosen)
    except ValidationError as error:
        raise refusal(error, Sampling, "option", "--temperature, --top-p, --seed") from None


def _questions(inputs: Path | None, image_root: Path | None, asked: dict) -> "list[Question] | None":
    """The questions to ask; None for the token ids of an npz file. Raises UserError unless exactly one kind of input is given."""
    from pydantic import ValidationError

    from ..core.record import refusal
    from ..families.processing.question import Question
    from ..inputs.questions import holds_questions, read_questions, read_texts, require_no_root

    given = {
        name: _stdin() if value == "-" and name in ("prompt", "question") else value
        for name, value in asked.items()
        if value not in (None, ())
    }
    of_texts = inputs is not None and set(given) == {"image"}
    if bool(given) == bool(inputs) and not of_texts:
        what = "both --inputs and a question are given" if given else "there is no question, prompt or --inputs file"
        raise UserError(what, where="command line", fix="pass --prompt TEXT, --question TEXT or --inputs FILE")
    require_no_root(image_root, None if given else inputs)
    if of_texts:
        return read_texts(inputs, given["image"])
    if inputs is None:
        try:
            return [Question(**given)]
        except ValidationError as error:
            where = "--prompt, --question, --context, --system, --option, --image"
            raise refusal(error, Question, "option", where) from None
    return read_questions(inputs, image_root) if holds_questions(inputs) else None


def _stdin() -> str:
    """Standard input as text, without the newline at its end. Raises UserError where there is none."""
    from ..system.files import standard_input

    text = standard_input().buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise UserError(
            "standard input is empty", where="-", fix="send the text to it, as in: echo TEXT | eas-export run .."
        )
    return text


def _check_outputs(outputs: Path, inputs: Path | None, suffix: str) -> None:
    from ..system.files import require_writable

    target = require_writable(outputs)
    if outputs.suffix.lower() != suffix:
        raise UserError(f"these inputs give a {suffix} file", where=outputs, fix=f"give a name that ends in {suffix}")
    if inputs is not None and inputs.resolve() in (target, outputs.resolve()):
        raise UserError("the outputs would replace the inputs", where=outputs, fix="choose another --outputs")
