"""eas-export run --chat: questions line by line, in one conversation."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..families.processing.question import Question
from ..generation.conversation import Conversation, Finish, TooMany
from ..generation.text_model import open_model
from ..system.files import require_file, standard_input
from .run_options import RunOptions
from .run_questions import WHY
from .width import fill, line_width

NEW_TOKENS = 512  # of an answer, as LLaVA's own command line has it
HELP = "/reset: forget what was said · /image FILE ..: start again with these images, or none · Ctrl-D: end"


def run_chat(bundle: Bundle, images: Sequence[str], options: RunOptions, system: str | None = None) -> None:
    """Answer the lines of standard input until its end, each conversation with the system message before it. Raises UserError where the
    model does not generate text, or takes no system message."""
    with options.progress.stage("loading"):
        model = open_model(bundle, options.backend, options.exif_rotate)
    for said in model.tokenizer.chat_notes():
        options.progress.note("chat", {"template": said})
    if system is not None:
        model.family.prompts.ids(model.runtime.config, model.tokenizer, Question(question="a", system=system))
    max_new_tokens = options.max_new_tokens or NEW_TOKENS
    conversation: Conversation | None = None
    options.note_rotations(images)
    for line in _lines():
        command, *given = line.split(maxsplit=1)
        try:
            if command == "/reset":
                conversation = None
            elif command == "/image":
                named = _names(*given)
                for name in named:
                    require_file(Path(name))
                conversation, images = None, named
                options.note_rotations(images)
            elif command.startswith("/") and not given:
                raise UserError(f"there is no command {command}", where="chat", fix=HELP)
            else:
                if conversation is None:
                    conversation = model.start(Question(question=line, image=images, system=system), max_new_tokens)
                else:
                    _go_on(model.ask, conversation, line)
                with _interrupted() as is_interrupted:
                    for step in model.stream(conversation, max_new_tokens, options.sampling):
                        click.echo("".join(text for _, text in step), nl=False)
                        if is_interrupted():
                            break
                click.echo()
                if (finish := conversation.finish[0]) not in (Finish.EOS, None):
                    options.progress.note("answer", {"ended by": WHY[finish]})
        except UserError as error:
            text = f"error: {error}"
            click.echo(fill(text, line_width(sys.stderr, len(text)), "  "), err=True)


def _names(text: str = "") -> list[str]:
    """The names of files in a text: one that exists, spaces included, or several as in a shell. Raises UserError for an open quote."""
    try:
        return [text] if os.path.isfile(text) else shlex.split(text)
    except ValueError:
        raise UserError(
            f"a quote in {text!r} is not closed", where="chat", fix="close it, or write \\ before it"
        ) from None


def _go_on(ask: Callable[[Conversation, Sequence[str]], None], conversation: Conversation, line: str) -> None:
    try:
        ask(conversation, [line])
    except TooMany as error:
        raise UserError(
            f"the conversation is full: {error.what}", where="chat", fix="type /reset to start again"
        ) from None


def _lines() -> Iterator[str]:
    """The lines of standard input that are not blank; on a terminal they are asked for, and can be edited."""
    stdin = standard_input()
    is_terminal = stdin.isatty()
    stdin.reconfigure(errors="replace")
    if is_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  gives `input` its keys
        click.echo(HELP, err=True)
    while True:
        try:
            if line := input("> " if is_terminal else "").strip():
                yield line
        except (EOFError, KeyboardInterrupt):
            if is_terminal:
                click.echo()
            return


@contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed since: it ends the answer between two tokens, and not the conversation."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
