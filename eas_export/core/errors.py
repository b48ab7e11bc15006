"""The two kinds of errors.

UserError      the user can fix it: says what was wrong, where, and what to do. Never shown with a traceback. Exit code 2.
InternalError  a bug of ours: always shown with its traceback.
"""


class UserError(Exception):
    """Something the user can fix.

    what   what was wrong, with the offending value ("skip index 40 is out of range 0..31"); a sentence that is clear without `where`
    where  the file, key, tensor or option that has it
    fix    what to do about it, as an instruction
    """

    def __init__(self, what: str, *, where: object, fix: str):
        self.what, self.where, self.fix = what, str(where), fix
        super().__init__(f"{what} ({where}): {fix}")

    def as_json(self) -> dict[str, str]:
        return {"what": self.what, "where": self.where, "fix": self.fix}


class OutOfSpace(UserError):
    """This machine has too little memory or disk space; the input is not at fault."""


class InternalError(Exception):
    """A bug in this package; please report it with the traceback."""
