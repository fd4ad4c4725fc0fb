"""The files of a second look in a bundle: its net, and what it knows of items besides their vectors.

N items of the catalogue, S statistics of an item.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from artefacts.files import json_text
from serving.retrieval.ranking import Scores
from serving.retrieval.retrievers import Retriever
from serving.second_look.inputs import STATISTICS, Floats, ItemFacts
from serving.second_look.net import Net
from serving.second_look.retriever import SecondLook

NET, ITEMS, REPORT = "net.npz", "items.npz", "report.json"
SERVED = "served"
"""Folder of a day's second look with what goes into a bundle."""


@dataclass(frozen=True)
class SecondLookReport:
    """How a second look came about.

    Attributes:
        lists: Names of the lists whose candidates it ranks.
        depth: Length of these lists.
        history: Latest items of a user that a candidate attends to, at most.
        num_lists: Lists that it was fitted on.
        num_users: Users whose lists they are.
        counted: Input -> by how much it moves the score of a candidate on average, largest first.
    """

    lists: tuple[str, ...]
    depth: int
    history: int
    num_lists: int
    num_users: int
    counted: Mapping[str, float]

    def __post_init__(self) -> None:
        """Takes the names as JSON gives them, too."""
        object.__setattr__(self, "lists", tuple(self.lists))


def read_report(folder: Path) -> SecondLookReport:
    """The report of a second look's folder."""
    return SecondLookReport(**json.loads((folder / REPORT).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class SecondLookParts:
    """What a second look needs besides the retrievers and vectors of a bundle.

    Attributes:
        net: Scores candidates.
        statistics: [N, S] float32.
        groups: [N] int32 number of each item's category, -1 for none.
        report: How it came about.
    """

    net: Net
    statistics: Floats
    groups: npt.NDArray[np.int32]
    report: SecondLookReport

    def save(self, folder: Path) -> None:
        """Writes them into a new folder."""
        folder.mkdir()
        self.net.save(folder / NET)
        with (folder / ITEMS).open("wb") as file:
            np.savez(file, statistics=self.statistics, groups=self.groups)
        (folder / REPORT).write_text(json_text(asdict(self.report), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, num_items: int) -> SecondLookParts:
        """Reads what `save` wrote.

        Raises:
            ValueError: It is of another number of items, or of other statistics.
        """
        report = read_report(folder)
        with np.load(folder / ITEMS, allow_pickle=False) as kept:
            statistics, groups = kept["statistics"], kept["groups"]
        if statistics.shape != (num_items, len(STATISTICS)) or groups.shape != (num_items,):
            raise ValueError(
                f"statistics are {statistics.shape} and categories {groups.shape}, expected those of {num_items} items "
                f"and {len(STATISTICS)} statistics"
            )
        return cls(Net.load(folder / NET), statistics, groups, report)

    def retriever(
        self,
        retrievers: Mapping[str, Retriever],
        vectors: Floats,
        parts: tuple[int, ...],
        *,
        weights: Scores | None = None,
    ) -> SecondLook:
        """The retriever over some vectors.

        Args:
            retrievers: All that there are, by name.
            vectors: [N, D] what the two towers rank by.
            parts: Widths of the vectors' parts.
            weights: [N] business weights of the items; None where there are none.

        Raises:
            KeyError: A list that the net reads has no retriever.
        """
        facts = ItemFacts(vectors, parts, self.statistics, self.groups)
        lists = {name: retrievers[name] for name in self.report.lists}
        return SecondLook(lists, self.net, facts, self.report.depth, self.report.history, weights)
