"""Progress of long work. The work calls a Progress; a subclass decides how it is shown. This one is silent."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Progress:
    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
        """A stage of the work. Yields a function to call with each part of the total that is done."""
        yield lambda done: None

    def note(self, title: str, values: Mapping[str, object]) -> None:
        """Intermediate results by name."""
