"""The folder of a search: locked by one process at a time, files written atomically."""

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
    """Lock the folder, creating it if necessary. Raises UserError if another process has locked it, or if it has other contents."""

    def busy(_: str) -> UserError:
        return UserError(
            "another search is running in the folder", where=out, fix="wait for it, or choose another --out"
        )

    with translated(out, "the search's folder cannot be written", "choose another --out"):
        if out.exists() and not (out / REPORT).exists() and {*out.iterdir()} - {*partials_in(out)}:
            raise UserError("the folder exists but is not a search", where=out, fix="choose another --out")
        locked = lock_folder(out, busy)
    with locked:
        for path in partials_in(out):  # from a killed process
            path.unlink()
        yield


def load_report(out: Path) -> SearchReport | None:
    """The report of a search in the folder, None if there is none. Raises UserError for a file that this version cannot read."""
    path = out / REPORT
    if not path.exists():
        return None
    try:
        return SearchReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = f"{REPORT} is not a search report of this version ({str(error).splitlines()[0][:100]})"
        raise UserError(what, where=path, fix="choose another --out") from None


def save_report(out: Path, report: SearchReport) -> None:
    with written_whole(out / REPORT) as file:
        file.write((report.model_dump_json(indent=1) + "\n").encode())
