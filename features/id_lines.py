"""Which ids does a text file name? One a line; a # at the beginning of a line or after a space begins a comment."""

from __future__ import annotations

import re

COMMENT = re.compile(r"(^|\s)#.*$")


def ids_in(text: str) -> list[str]:
    """The ids of a text, in order; blank lines and comments name none."""
    lines = (COMMENT.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def check_line(name: str) -> str:
    """An id that stands alone on a line.

    Raises:
        ValueError: It is empty, begins or ends with a space, has a line break, or would be read as a comment.
    """
    if ids_in(name) != [name]:
        raise ValueError(
            f"{name!r} cannot stand on a line by itself; expected an id without line breaks, spaces at its ends and "
            "a # that begins a comment"
        )
    return name
