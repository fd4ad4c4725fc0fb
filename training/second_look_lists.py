"""Lists that the second look is fitted on: candidates of users on days that the towers do not know, and what was met.

L lists, E entries of all, N items of the catalogue.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from artefacts.paths import RunPaths
from evaluation import hybrid_choice, validation_days
from features.encoding import Encoder
from features.lists import first_codes_of
from serving.config import SecondLookConfig, SecondLookSections
from serving.retrieval import retrievers, vectors
from serving.second_look.inputs import Candidates, Floats, Inputs, ItemFacts, input_names, inputs_of, read_statistics

BLOCK = 64
"""Users whose candidates are held at a time."""


@dataclass(frozen=True)
class Lists:
    """Candidates of some lists, and which of them the user went on to meet.

    Attributes:
        inputs: E of them.
        is_met: [E] bool, what is relevant.
        owners: [E] int64 list of each, ascending from 0.
        users: [L] int64 number of the user of each list.
    """

    inputs: Inputs
    is_met: npt.NDArray[np.bool_]
    owners: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """L."""
        return len(self.users)

    def of(self, chosen: npt.NDArray[np.bool_]) -> Lists:
        """Some lists: [L] which."""
        kept = chosen[self.owners]
        numbers = np.cumsum(chosen) - 1
        entries = np.flatnonzero(kept)
        return Lists(self.inputs.of(entries), self.is_met[kept], numbers[self.owners[kept]], self.users[chosen])

    @classmethod
    def together(cls, parts: list[Lists]) -> Lists:
        """The lists of several, one after the other; users of different parts are different ones."""
        owners, users, first_list, first_user = [], [], 0, 0
        for part in parts:
            owners.append(part.owners + first_list)
            users.append(part.users + first_user)
            first_list, first_user = first_list + len(part), first_user + int(part.users.max(initial=-1)) + 1
        inputs = [part.inputs for part in parts]
        return cls(
            Inputs(
                np.concatenate([one.values for one in inputs]),
                np.concatenate([one.pairs for one in inputs]),
                np.concatenate([one.is_met for one in inputs]),
            ),
            np.concatenate([part.is_met for part in parts]),
            np.concatenate(owners),
            np.concatenate(users),
        )

    def save(self, file: Path) -> None:
        """Writes them."""
        with file.open("wb") as opened:
            np.savez(
                opened,
                values=self.inputs.values,
                pairs=self.inputs.pairs.astype(np.float16),
                pair_is_there=self.inputs.is_met,
                is_met=self.is_met,
                owners=self.owners,
                users=self.users,
            )

    @classmethod
    def load(cls, file: Path) -> Lists:
        """Reads what `save` wrote."""
        with np.load(file, allow_pickle=False) as kept:
            inputs = Inputs(kept["values"], kept["pairs"].astype(np.float32), kept["pair_is_there"])
            return cls(inputs, kept["is_met"], kept["owners"], kept["users"])


@dataclass(frozen=True)
class WindowLists:
    """The lists of users on days that a fit does not know.

    Attributes:
        window: The days.
        facts: Of the items at their beginning.
        look: How long lists are, and what is drawn from them.
        seed: Of the draw.
    """

    window: validation_days.Window
    facts: ItemFacts
    look: SecondLookConfig
    seed: int

    @classmethod
    def of(
        cls, sections: SecondLookSections, paths: RunPaths, fit: RunPaths, window: validation_days.Window
    ) -> WindowLists:
        """Those of a fit, whose vectors are searched."""
        statistics, groups = facts_of(paths, fit, window.first_day, sections.item_category)
        facts = ItemFacts(window.ranked, vectors.read_parts(fit.model), statistics, groups)
        return cls(window, facts, sections.look, sections.seed)

    @cached_property
    def retrievers(self) -> dict[str, retrievers.Retriever]:
        """Name of each list -> what makes it."""
        return hybrid_choice.plain_lists(self.window)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the net's inputs."""
        return input_names([*self.retrievers], len(self.facts.parts))

    def _candidates(self, block: npt.NDArray[np.int64], *, exclude_known: bool) -> tuple[Candidates, Inputs]:
        users = replace(self.window.users.of(block), exclude_known=exclude_known)
        found = {name: part.retrieve(users, self.look.depth) for name, part in self.retrievers.items()}
        candidates = Candidates.of(found)
        return candidates, inputs_of(users, candidates, self.facts, depth=self.look.depth, history=self.look.history)

    def _blocks(self) -> list[npt.NDArray[np.int64]]:
        num_users = len(self.window.users)
        return [np.arange(begin, min(begin + BLOCK, num_users)) for begin in range(0, num_users, BLOCK)]

    def lists(self) -> Lists:
        """Two lists of each user, with known items and without: what was met, and some of what was not."""
        relevant, rng = self.window.relevant, np.random.default_rng(self.seed)
        keys = np.repeat(np.arange(relevant.shape[0]), np.diff(relevant.indptr)) * relevant.shape[1] + relevant.indices
        keys = np.sort(keys)
        parts = []
        for block in self._blocks():
            for exclude_known in (False, True):
                candidates, inputs = self._candidates(block, exclude_known=exclude_known)
                is_met = np.isin(block[candidates.owners] * relevant.shape[1] + candidates.items, keys)
                kept = _sampled(candidates.owners, is_met, self.look.negatives, rng)
                if len(kept):
                    owners = np.unique(candidates.owners[kept], return_inverse=True)
                    parts.append(Lists(inputs.of(kept), is_met[kept], owners[1], block[owners[0]]))
        if not parts:
            none = np.empty(0, np.int64)
            return Lists(self._candidates(none, exclude_known=True)[1], np.empty(0, np.bool_), none, none)
        # The two lists of a user keep one number, so that both are in the same fold.
        users = np.concatenate([part.users for part in parts])
        return replace(Lists.together(parts), users=users)


def _sampled(
    owners: npt.NDArray[np.int64], is_met: npt.NDArray[np.bool_], most: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Entries of lists that have both: all that was met, and some of the others, drawn evenly."""
    num_lists = int(owners.max(initial=-1)) + 1
    num_met = np.bincount(owners, weights=is_met, minlength=num_lists)
    usable = (num_met > 0) & (num_met < np.bincount(owners, minlength=num_lists))
    draws = np.where(is_met, -1.0, rng.random(len(owners)))
    order = np.lexsort((draws, owners))
    place = np.empty(len(owners), np.int64)
    place[order] = np.arange(len(owners)) - np.searchsorted(owners[order], owners[order])
    return np.flatnonzero(usable[owners] & (place < num_met[owners] + most))


def facts_of(
    paths: RunPaths, fit: RunPaths, moment: dt.date, item_category: str | None
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Statistics [N, S] of a fit's items at a moment, and the number [N] of each one's category, -1 for none.

    Args:
        paths: Where tables and catalogues are.
        fit: Whose items.
        moment: A midnight with a catalogue.
        item_category: Column of the categories; of several of an item the first counts. None has no categories.
    """
    encoder = Encoder.load(fit.model / "encoder")
    statistics = read_statistics(paths.catalogue(moment) / "items.parquet", encoder.item_ids)
    return statistics, _groups(paths, encoder, item_category)


def _groups(paths: RunPaths, encoder: Encoder, item_category: str | None) -> npt.NDArray[np.int32]:
    found = np.full(len(encoder.item_ids), -1, np.int32)
    if item_category is None:
        return found[1:]
    table = pq.read_table(paths.tables / "items.parquet", columns=["item_id", item_category])
    rows = encoder.item_ids.rows(table.column("item_id").to_numpy(zero_copy_only=False))
    found[rows] = first_codes_of(table.column(item_category).combine_chunks())
    return found[1:]
