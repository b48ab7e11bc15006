"""The two ways this package fails.

UserError      the user can mend it: says what was wrong, where, and what to do. Never shown with a traceback. Exit code 2.
InternalError  our bug: always shown with its traceback.
"""


class UserError(Exception):
    """Something the user can mend.

    what   what was wrong, with the offending value ("skip index 40 is out of range 0..31")
    where  the file, key, tensor or option it was found in
    fix    what to do about it, as an instruction
    """

    def __init__(self, what: str, *, where: object, fix: str):
        self.what, self.where, self.fix = what, str(where), fix
        super().__init__(f"{what} ({where}): {fix}")

    def as_json(self) -> dict[str, str]:
        return {"what": self.what, "where": self.where, "fix": self.fix}


class NoRoom(UserError):
    """This machine has no memory or disk for it; nothing is wrong with what was given."""


class InternalError(Exception):
    """A broken promise inside this package; please report it with the traceback."""
