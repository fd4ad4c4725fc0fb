"""Negatives: the sources that they come from, which of them a row must not have, and how likely each is.

Another source is a file of its own here and an entry of `NEGATIVE_SOURCES`; `training.negatives.extra_sources` in the
configuration names it and gives its arguments.
"""

from collections.abc import Callable

from training.negatives.even_draws import per_row, uniform
from training.negatives.source import Source

NEGATIVE_SOURCES: dict[str, Callable[..., Source]] = {"uniform": uniform, "random": per_row}
"""What can be drawn by chance, by the name in the configuration; lists of users' negatives are `private.listed`."""
