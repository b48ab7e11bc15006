"""What a backend could do on this machine, as a record."""

from .config import Record


class Health(Record):
    """version  of what it runs on, None where that is missing
    does     what it runs on this machine, and how
    fix      how to get what is missing; empty where nothing is
    """

    version: str | None
    does: str
    fix: str = ""
