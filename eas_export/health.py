"""What a backend could do on this machine, as a record."""

from .config import Record


class Health(Record):
    """version  of what it runs on, None where that is missing
    runs     whether bundles can be run with it on this machine
    does     what it does on this machine, and how
    fix      how to get what is missing; empty where nothing is
    """

    version: str | None
    runs: bool
    does: str
    fix: str = ""
