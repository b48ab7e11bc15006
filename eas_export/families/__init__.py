"""WHO: the model families. To add one, write its file with a Family in it and add its row here."""

from pathlib import Path

from ..errors import UserError
from ..family import Family
from ..registry import lookup

FAMILIES = {
    "lavin": ".families.lavin:LAVIN",
}


def get_family(name: str) -> Family:
    return lookup(FAMILIES, name, "model family", "manifest")


def detect(path: Path) -> Family:
    """The family of the checkpoint at `path`. Raises UserError when it is none of ours."""
    if not path.exists():
        raise UserError("there is no such file or folder", where=path, fix="check the path")
    for name in FAMILIES:
        family = get_family(name)
        if family.detect(path):
            return family
    raise UserError(
        "it looks like no checkpoint of a known family",
        where=path,
        fix=f"give a {' or '.join(FAMILIES)} checkpoint; LaVIN-EAS: a folder with weights/, clip/ and checkpoint-*.pth, "
        "or the checkpoint-*.pth with --weights and --vision",
    )
