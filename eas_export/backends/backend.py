"""The contract a backend fills in."""

from collections.abc import Callable
from dataclasses import dataclass

from ..bundle import Bundle
from ..health import Health
from .runtime import Runtime


@dataclass(frozen=True)
class Backend:
    """open: bundle -> its graphs ready to run, raises UserError; health: what it could do here"""

    open: Callable[[Bundle], Runtime]
    health: Callable[[], Health]
