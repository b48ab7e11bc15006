"""Telling how far long work is. The work calls a Progress; who listens decides how it looks. This one is silent."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Progress:
    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
        """A stage of the work; call what it yields with how much of the total was done."""
        yield lambda done: None

    def note(self, title: str, values: Mapping[str, object]) -> None:
        """What the work sees on its way: numbers by their names."""
