"""Entry point: find the command, run it, and turn errors into a message and an exit code.

Exit codes: 0 done, or the same · 1 differs · 2 wrong usage or bad input · 3 something required was not run · 70 a bug in
eas-export · 130 interrupted · 141 standard output was closed · 143 terminated
A UserError never shows a traceback; a bug always does.
"""

import errno
import io
import os
import signal
import sys
import traceback
from contextlib import suppress

import click

from .. import __version__
from ..core.errors import UserError
from ..core.registry import lookup
from .width import fill, line_width

# Command -> its summary, which --help shows without importing the command's file
COMMANDS = {
    "build": "Take an EAS checkpoint to a verified bundle.",
    "verify": "Compare a bundle with PyTorch, step by step.",
    "bench": "Time a bundle against its baselines, and against this machine's limit.",
    "run": "Run a bundle on a prompt, on a file of questions, or on token ids.",
    "search": "Find the attentions that a model can do without, and train the adapters that stand in for them.",
    "inspect": "Show what is in a checkpoint or a bundle.",
    "check": "Show a bundle's graphs as TensorRT's parser sees them.",
    "demo": "Build and verify a small trained model, and let it answer questions.",
    "doctor": "Show what is installed, what could run here, and how to get what is missing.",
}
PLACES = {name: f".cli.{name}:{name}" for name in COMMANDS}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return lookup(PLACES, name, "command", "eas-export")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="eas-export")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Take trained EAS models from their checkpoints to verified engines.

    \b
    eas-export demo                                    a small trained model
    eas-export build --ckpt data/ --out model.bundle   your own checkpoint
    eas-export COMMAND --help                          options and examples
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class Terminated(SystemExit):
    """Raised on SIGTERM, so that what is trained is saved and temporary folders are removed on the way out."""


def _terminate(*_: object) -> None:
    raise Terminated


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # characters that the terminal's encoding lacks
    try:
        code = cli.main(standalone_mode=False)
    except UserError as error:
        code = _refuse(error)
    except click.ClickException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", _command())
        code = _refuse(
            UserError(error.format_message().removesuffix("."), where="command line", fix=f"see {command} --help")
        )
    except (click.Abort, KeyboardInterrupt) as error:
        code = _refuse(_stopped("interrupted", "keyboard", error), 130)
    except Terminated as error:
        code = _refuse(_stopped("terminated", "signal", error), 143)
    except SystemExit:  # click's, where the reader of standard output is gone, like head
        code = 141
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and missing.partition(".")[0] != "eas_export":
            what = f"the package {missing} is not installed"
            code = _refuse(UserError(what, where="Python", fix="run eas-export doctor"))
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # drops the rest of the output
            what = f"standard output cannot be written ({error.strerror})"
            code = _refuse(UserError(what, where="standard output", fix="free space on its disk"))
        else:
            traceback.print_exc()
            what, fix = f"{type(error).__name__}: {error}", "this is a bug of eas-export; please report its traceback"
            code = _refuse(UserError(what, where="eas-export", fix=fix), 70)
    sys.exit(code if isinstance(code, int) else 0)


def _command() -> str:
    """The command that runs: eas-export build"""
    return " ".join(["eas-export", *(word for word in sys.argv[1:2] if word in COMMANDS)])


def _stopped(what: str, where: str, error: BaseException) -> UserError:
    """The message of an interruption: what the interrupted work noted on it about what is kept; the outermost work knows best."""
    notes = getattr(error.__cause__ or error, "__notes__", [])  # click raises its Abort from the KeyboardInterrupt
    fix = notes[-1] if notes else f"run the same command again: {_command()} kept nothing to resume from"
    return UserError(what, where=where, fix=fix)


def _refuse(error: UserError, code: int = 2) -> int:
    """Print an error, return the exit code. In a log it is one line; on a narrower terminal the fix starts a line, to be copied. --json-file
    gets it once the command has started: until then the file may be another one."""
    from .output import print_json

    with suppress(OSError, UserError):  # the error may be that a disk is full
        print_json({"error": error.as_json()}, "--json" in sys.argv)
    text, fix = " ".join(f"error: {error}".split()), " ".join(error.fix.split())
    width = line_width(sys.stderr, len(text))
    if len(text) > width:
        text = f"{fill(text.removesuffix(fix), width, '  ')}\n{fill('  ' + fix, width, '  ')}"
    print(text, file=sys.stderr)
    return code
