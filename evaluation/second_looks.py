"""Lists of a second look on days before the cut, each ranked by a net that was fitted on other users.

B users, k places of a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from artefacts.paths import RunPaths
from serving.retrieval.ranking import Rows

RANKED = "ranked.npz"


@dataclass(frozen=True)
class SecondLooks:
    """Lists of some users.

    Attributes:
        user_rows: [B] rows of the users, ascending.
        with_known: [B, k] catalogue rows, best first, -1 behind the last one.
        without_known: [B, k] the same without items that the user has met.
    """

    user_rows: npt.NDArray[np.int64]
    with_known: Rows
    without_known: Rows

    def rows(self, user_rows: npt.NDArray[np.int64], *, exclude_known: bool) -> Rows:
        """The lists of some of the users.

        Args:
            user_rows: [b] rows of users, all of whom must be there.
            exclude_known: Whether known items are kept out.
        """
        lists = self.without_known if exclude_known else self.with_known
        found: Rows = lists[np.searchsorted(self.user_rows, user_rows)]
        return found

    def save(self, folder: Path) -> None:
        """Writes them."""
        with (folder / RANKED).open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, paths: RunPaths) -> SecondLooks | None:
        """Those of a day; None where there is no second look."""
        file = paths.second_look / RANKED
        if not file.exists():
            return None
        with np.load(file, allow_pickle=False) as kept:
            return cls(kept["user_rows"], kept["with_known"], kept["without_known"])
