"""What eas-export run was told beside the inputs, for every kind of network."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.progress import Progress

if TYPE_CHECKING:
    from ..generation.sampling import Sampling

DEFAULT_NEW_TOKENS = 32


@dataclass(frozen=True)
class RunOptions:
    """
    outputs, max_new_tokens  None where not given
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
