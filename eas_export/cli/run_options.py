"""What eas-export run was told beside the inputs, for every kind of network."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UserError
from ..core.progress import Progress

if TYPE_CHECKING:
    from ..generation.sampling import Sampling

DEFAULT_NEW_TOKENS = 32


@dataclass(frozen=True)
class RunOptions:
    """
    outputs, max_new_tokens, top  None where not given
    as_json                  whether standard output gets one JSON object and nothing else
    exif_rotate              see families/processing/image_processor.read_image
    resume                   whether to go on with the partial outputs of an interrupted run
    """

    outputs: Path | None
    max_new_tokens: int | None
    sampling: "Sampling"
    backend: str
    as_json: bool
    progress: Progress
    exif_rotate: bool = False
    resume: bool = False
    top: int | None = None

    def note_rotations(self, names: Iterable[str]) -> None:
        """Say which images, or images of which folders, have a rotation in their EXIF data that is not applied."""
        from ..families.processing.image_processor import is_rotated

        if self.exif_rotate:
            return
        paths = dict.fromkeys(map(Path, names))
        files = dict.fromkeys(file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path]))
        if rotated := [file for file in files if is_rotated(file)]:
            others = f" and {len(rotated) - 1} more" if rotated[1:] else ""
            read = f"{'are' if others else 'is'} read as stored, without the rotation in the EXIF data"
            self.progress.note("images", {f"{rotated[0]}{others}": f"{read}: --exif-rotate applies it"})

    def require_decoding(self) -> None:
        """Raise UserError for an option of models that choose among answers, or rank."""
        if self.top is not None:
            raise UserError("the model writes its answers and ranks nothing", where="--top", fix="leave --top out")

    def require_no_decoding(self) -> None:
        """Raise UserError for an option of models that generate tokens."""
        given = {"--max-new-tokens": self.max_new_tokens is not None, "--temperature": self.sampling.temperature > 0}
        for option in (name for name, is_given in given.items() if is_given):
            raise UserError("a cross-encoder generates no tokens", where=option, fix=f"leave {option} out")
