"""The folder of a search: one process at a time, and files that are whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from ..core.errors import UserError
from ..system.files import partials_in, translated, written_whole
from ..system.locked_folder import lock_folder
from .report import SearchReport

REPORT = "search.json"


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Lock the folder, made where there is none. Raises UserError where another process holds it, and for one with anything else in it."""

    def busy(_: str) -> UserError:
        return UserError("another search is at work there", where=out, fix="wait for it, or choose another --out")

    with translated(out, "no search can be written there", "choose another --out"):
        if out.exists() and not (out / REPORT).exists() and {*out.iterdir()} - {*partials_in(out)}:
            raise UserError("it exists and is no search", where=out, fix="choose another --out")
        locked = lock_folder(out, busy)
    with locked:
        for path in partials_in(out):  # of one that was killed
            path.unlink()
        yield


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
