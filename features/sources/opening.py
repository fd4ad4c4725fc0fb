"""Which adapter reads which kind of source?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from features.schema import Schema
from features.sources.complete_journey import open_complete_journey
from features.sources.movielens import open_movielens
from features.sources.raw import Source, SourceError, nearest
from features.sources.tables import open_tables

OPENERS: dict[str, Callable[..., Source]] = {
    "complete_journey": open_complete_journey,
    "movielens": open_movielens,
    "tables": open_tables,
}


class SourceSettings(Protocol):
    """What the configuration says of a source: its kind, and pairs of the adapter's arguments and their values."""

    @property
    def kind(self) -> str:
        """One of `OPENERS`."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Pairs of name and value, the kind among them."""


def open_source(settings: SourceSettings, *, schema: Schema) -> Source:
    """Opens a source, checks its files and columns, and reads nothing more.

    Args:
        settings: Its kind and the keyword arguments of the adapter.
        schema: The declared columns.

    Returns:
        The dataset.

    Raises:
        SourceError: The kind is unknown, or a file or a column is missing.
    """
    if settings.kind not in OPENERS:
        raise SourceError(
            f"ingest.source.kind is {settings.kind!r}; did you mean {nearest(settings.kind, OPENERS)}? "
            f"Expected one of: {', '.join(OPENERS)}"
        )
    return OPENERS[settings.kind](schema=schema, **{name: value for name, value in settings if name != "kind"})
