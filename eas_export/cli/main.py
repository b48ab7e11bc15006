"""Entry point: finds the command, runs it, and turns what went wrong into one line and an exit code.

Exit codes: 0 done, or the same · 1 differs · 2 wrong use or bad input · 3 something required was not run · 70 a bug of ours · 130 interrupted · 141 nobody reads · 143 terminated
A mistake of the user's never shows a traceback; a bug of ours always does.
"""

import errno
import io
import json
import os
import signal
import sys
import traceback
from contextlib import suppress

import click

from .. import __version__
from ..core.errors import UserError
from ..core.registry import lookup

# A command's summary, which --help shows without importing it: the command lies in the file of its name
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

AGAIN = "start it again; a build goes on from the files that it had finished, a search from its last steps"


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
    eas-export demo                                    see it work
    eas-export build --ckpt data/ --out model.bundle   the real thing
    eas-export COMMAND --help                          options and examples
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class Terminated(BaseException):
    """The process was asked to end: raised so that temporary folders are removed on the way out."""


def _terminate(*_: object) -> None:
    raise Terminated


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows another
    try:
        code = cli.main(standalone_mode=False)
    except UserError as error:
        _say(error.as_json(), str(error))
        code = 2
    except click.ClickException as error:
        context = f" (see {error.ctx.command_path} --help)" if getattr(error, "ctx", None) else ""
        _say(
            {"what": error.format_message(), "where": "command line", "fix": "see --help"},
            error.format_message() + context,
        )
        code = 2
    except (click.Abort, KeyboardInterrupt):
        _say({"what": "interrupted", "where": "keyboard", "fix": AGAIN}, f"interrupted; {AGAIN}")
        code = 130
    except Terminated:
        _say({"what": "terminated", "where": "signal", "fix": AGAIN}, f"terminated; {AGAIN}")
        code = 143
    except SystemExit:  # click's way to say that whoever read our output has enough, like head
        code = 141
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and missing.partition(".")[0] != "eas_export":
            line = UserError(f"the package {missing} is not installed", where="Python", fix="see eas-export doctor")
            _say(line.as_json(), str(line))
            sys.exit(2)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of the output is dropped, not complained about
            line = UserError(f"it cannot be written ({error.strerror})", where="standard output", fix="make room")
            _say(line.as_json(), str(line))
            sys.exit(2)
        traceback.print_exc()
        fix = "this is a bug of eas-export; please report it with its traceback"
        _say({"what": f"{type(error).__name__}: {error}", "where": "eas-export", "fix": fix}, fix)
        code = 70
    sys.exit(code if isinstance(code, int) else 0)


def _say(record: dict, line: str) -> None:
    if "--json" in sys.argv:
        with suppress(OSError):  # a full disk behind standard output may be what there is to say
            print(json.dumps({"error": record}), flush=True)
    print("error: " + " ".join(line.split()), file=sys.stderr)
