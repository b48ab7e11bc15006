"""Telling how far long work is. The work calls a Progress; who listens decides how it looks. This one is silent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    @contextmanager
    def stage(self, title: str, total_bytes: int | None = None) -> Iterator[Callable[[int], None]]:
        """A stage of the work; call what it yields with the bytes that were done."""
        yield lambda done: None
