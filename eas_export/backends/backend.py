"""The contract a backend fills in."""

from collections.abc import Callable
from dataclasses import dataclass

from ..bundle import Bundle
from ..health import Health
from .runtime import Runtime


@dataclass(frozen=True)
class Backend:
    """How bundles are run.

    open          bundle -> its graphs ready to run; raises UserError
    open_sparing  the same in as little memory as it goes, however slow: for verifying
    private_bytes  bundle -> the memory that its weights take when it is open, beside the mapped store
    health        what it could do here
    """

    open: Callable[[Bundle], Runtime]
    open_sparing: Callable[[Bundle], Runtime]
    private_bytes: Callable[[Bundle], int]
    health: Callable[[], Health]
