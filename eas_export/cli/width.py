"""How wide printed lines may be, and text in lines of that width."""

import os
import textwrap
from typing import TextIO


def line_width(stream: TextIO, default: int) -> int:
    """Columns of the terminal that a stream goes to; elsewhere COLUMNS where it is set, else `default`."""
    columns = os.environ.get("COLUMNS", "")
    try:
        return os.get_terminal_size(stream.fileno()).columns or default
    except (OSError, ValueError):  # a pipe, a file, or a stream without a descriptor
        return int(columns) if columns.isdecimal() and int(columns) else default


def fill(text: str, width: int, indent: str = "") -> str:
    """Text in lines that break at spaces only: a longer word, like a path, has a line of its own. indent: put before every line but the first"""
    options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": indent}
    return "\n".join(textwrap.fill(line, width, **options) for line in text.split("\n"))
