"""The folder of a search: one process at a time, and files that are whole."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from ..core.errors import UserError
from ..system.files import partials_in, written_whole
from .report import SearchReport

REPORT = "search.json"


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Hold the folder, made where there is none. Raises UserError where another process does, and for one that holds anything else."""
    try:
        if out.exists() and not (out / REPORT).exists() and {*out.iterdir()} - {*partials_in(out)}:
            raise UserError("it exists and is no search", where=out, fix="choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _refused(out, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process however that ends
        except BlockingIOError:
            what, fix = "another search is at work there", "wait for it, or choose another --out"
            raise UserError(what, where=out, fix=fix) from None
        except OSError as error:
            raise _refused(out, error) from None
        for path in partials_in(out):  # of one that was killed
            path.unlink()
        yield
    finally:
        os.close(handle)


def _refused(out: Path, error: OSError) -> UserError:
    return UserError(f"no search can be written there ({error.strerror})", where=out, fix="choose another --out")


def load_report(out: Path) -> SearchReport | None:
    """What is there of a search; None where nothing is. Raises UserError for a file that is none of this version's."""
    path = out / REPORT
    if not path.exists():
        return None
    try:
        return SearchReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = f"it is no report of a search by this version ({str(error).splitlines()[0][:100]})"
        raise UserError(what, where=path, fix="choose another --out") from None


def save_report(out: Path, report: SearchReport) -> None:
    with written_whole(out / REPORT) as file:
        file.write((report.model_dump_json(indent=1) + "\n").encode())
