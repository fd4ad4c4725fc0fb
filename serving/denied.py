"""Which items must not be answered with now? A file with an id a line, read again when it changes.

    runs/<dataset>/denied_items.txt     one item id a line, # begins a comment

The file is looked at once a second at most, so that a request pays for a look and not for reading.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.id_lines import ids_in
from features.ids import IdMap

LOOK_SECONDS = 1.0
Items = npt.NDArray[np.int32]
NO_ITEMS: Items = np.empty(0, np.int32)

_Signature = tuple[int, int, int]
_log = logging.getLogger(__name__)
# The libraries' silence is not ours: people must see that an id was misspelled.
_log.setLevel(logging.INFO)


class DeniedItems:
    """The denied items of a catalogue. Several threads may ask at the same time.

    Args:
        path: The file; where there is none, nothing is denied.
        item_ids: Of the catalogue.
        clock: Seconds that never go back; told only for tests.
    """

    def __init__(self, path: Path, item_ids: IdMap, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads nothing yet."""
        self._path, self._item_ids, self._clock = path, item_ids, clock
        self._next_look = -np.inf
        self._signature: _Signature | None = None
        self._rows = NO_ITEMS

    def rows(self) -> Items:
        """Catalogue rows of the denied items, ascending and distinct.

        A file that cannot be read changes nothing: what was denied before stays denied, and a line of log says so.
        """
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            try:
                self._look()
            except (OSError, ValueError) as error:
                _log.error("%s: cannot be read (%s); what was denied before stays denied", self._path, error)
        return self._rows

    def _look(self) -> None:
        signature = _signature(self._path)
        if signature == self._signature:
            return
        names = [] if signature is None else sorted(set(ids_in(self._path.read_text(encoding="utf-8"))))
        found = self._item_ids.rows(names)
        known = found[found > 0]
        rows = np.sort(known - 1).astype(np.int32)
        rows.flags.writeable = False
        self._rows, self._signature = rows, signature
        num_unknown = len(names) - len(known)
        level = logging.WARNING if num_unknown else logging.INFO
        _log.log(level, "%s: %d items denied, %d more not in this bundle", self._path, len(known), num_unknown)


def _signature(path: Path) -> _Signature | None:
    """Changes whenever the file is replaced or written; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
