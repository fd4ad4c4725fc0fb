"""What becomes of a table of lists when the catalogue changes? The same table as one built anew, for less work.

Items that left, or are offered no more, are dropped and rows renumbered; items that are new or offered again, or whose
tokens changed, are scored against the codes that are there, and merged. A list that the cap has cut is not all there
was: where something leaves it, an item below its end may belong into it. Such a list is right again if enough of what
is in it now ranks above every item that the cap may have cut; the other ones are scored anew in full.

Shape letters: K codes, N items of the new catalogue, O items of the old one, F fresh items, W items that are left out,
V items that were left out, Q codes of a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.score_codes import ScoreCodes, ScoringFiles, ScoringSettings, collect, run

if TYPE_CHECKING:
    from serving.sparcode.postings import Postings

Ints = npt.NDArray[np.int64]
NO_ROWS: Ints = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class CatalogueChange:
    """How the rows of items have changed.

    Attributes:
        new_rows: [O] int64, the row that an item of the old catalogue has now; -1 where it left.
        fresh: [F] int64, ascending: rows of items that are new or offered again, or whose tokens changed.
        num_items: N.
        left_out: [W] int64, ascending: rows of items that the new table has no posting of, fresh or not.
        were_left_out: [V] int64: rows in the old catalogue of items that the old table was made without.
    """

    new_rows: Ints
    fresh: Ints
    num_items: int
    left_out: Ints = field(default_factory=NO_ROWS.copy)
    were_left_out: Ints = field(default_factory=NO_ROWS.copy)

    def __post_init__(self) -> None:
        """Checks that every item comes from somewhere.

        Raises:
            ValueError: Two old items have one row, a row is beyond the catalogue, `fresh` or `left_out` does not
                ascend, an item is neither fresh nor left out nor of the old catalogue, or one that is offered again is
                not fresh.
        """
        stayed = self.new_rows[self.new_rows >= 0]
        times = np.bincount(stayed, minlength=self.num_items)
        if len(times) > self.num_items or (times > 1).any():
            row = int(stayed.max()) if len(times) > self.num_items else int(np.argmax(times > 1))
            raise ValueError(
                f"new_rows has row {row} {times[row]} times, expected rows 0 to {self.num_items - 1}, each at most once"
            )
        for name, rows in (("fresh", self.fresh), ("left_out", self.left_out)):
            if len(rows) and (np.any(np.diff(rows, prepend=-1) <= 0) or rows[-1] >= self.num_items):
                raise ValueError(f"{name} must ascend and lie within 0 to {self.num_items - 1}")
            times[rows] += 1
        if not times.all():
            raise ValueError(
                f"{int((times == 0).sum())} items are neither fresh nor of the old catalogue, the first is row "
                f"{int(np.argmin(times))}; what is new to the catalogue belongs into fresh"
            )
        back = np.setdiff1d(self.new_rows[self.were_left_out], np.append(self.left_out, -1))
        if len(unscored := np.setdiff1d(back, self.fresh)):
            raise ValueError(
                f"row {unscored[0]} is of an item that the old table was made without, and is offered again; expected "
                "it in fresh, or in left_out"
            )

    def unchanged(self) -> Ints:
        """[O] int64: the new row of an item whose scores are still right and kept, -1 for others."""
        is_other = np.zeros(self.num_items + 1, dtype=np.bool_)
        is_other[self.fresh] = is_other[self.left_out] = True
        return np.where((self.new_rows >= 0) & ~is_other[self.new_rows], self.new_rows, -1)

    def offered(self) -> Ints:
        """[N - W] int64, ascending: rows of the items that the new table is made with."""
        return np.setdiff1d(np.arange(self.num_items), self.left_out)


class _Merged(NamedTuple):
    """Lists of Q codes, and which of them are surely right."""

    owners: Ints
    items: Ints
    scores: npt.NDArray[np.float32]
    is_right: npt.NDArray[np.bool_]


def refresh(
    files: ScoringFiles,
    postings: Postings,
    change: CatalogueChange,
    *,
    catalogue: str,
    block_size: int,
    work: Path,
    out: Path,
    options: PipelineOptions,
) -> int:
    """Writes the table of a changed catalogue, from the old table.

    Args:
        files: The codebook and net that the old table was made with, and the tokens of all items now; which of them are
            scored, the change tells.
        postings: The old table; its bias, cap and codes are kept.
        change: How the rows of items have changed.
        catalogue: Digest of the item ids now.
        block_size: Codes of an element (Q).
        work: Folder for what comes between, empty or missing.
        out: Folder to write the new table to.
        options: Of the pipeline.

    Returns:
        Number of codes that were scored anew in full.

    Raises:
        ValueError: The old table was made with another codebook or net, or the change is of another catalogue.
    """
    from serving.sparcode.postings import PostingsWriter

    _check(files, postings, change)

    def writer(folder: Path, of_catalogue: str) -> PostingsWriter:
        about = postings.about
        return PostingsWriter(
            folder,
            num_items=change.num_items,
            bias=about.bias,
            cap=about.cap,
            codebook=about.codebook,
            catalogue=of_catalogue,
            interaction=about.interaction,
        )

    def score(name: str, keys: Ints, rows: Ints) -> Postings:
        from serving.sparcode.postings import read_postings

        if len(keys) and len(rows):
            np.save(work / f"{name}.npy", rows)
            scored = replace(files, rows=work / f"{name}.npy" if len(rows) < change.num_items else None)
            transform = ScoreCodes(scored, ScoringSettings(bias=postings.bias, cap=postings.cap))
            run(transform, keys, block_size=block_size, out=work / name, options=options)
            collect(work / name, keys, writer(work / f"{name}_table", catalogue))
        else:
            with writer(work / f"{name}_table", catalogue) as empty:
                empty.add(keys, np.zeros(len(keys) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        return read_postings(work / f"{name}_table")

    work.mkdir(parents=True, exist_ok=True)
    keys, offered = np.asarray(postings.keys), change.offered()
    fresh = score("fresh", keys, np.intersect1d(change.fresh, offered))
    merge = _Merge(postings, fresh, change)
    blocks = [np.arange(begin, min(begin + block_size, len(keys))) for begin in range(0, len(keys), block_size)]
    wrong = np.concatenate([np.zeros(0, np.int64), *(keys[rows[~merge.of(rows).is_right]] for rows in blocks)])
    anew = score("anew", wrong, offered)
    with writer(out, catalogue) as written:
        for rows in blocks:
            merged = merge.of(rows)
            again = np.flatnonzero(~merged.is_right)
            owners, items, scores = anew.lists(anew.find(keys[rows[again]]))
            right = merged.is_right[merged.owners]
            owners = np.concatenate([merged.owners[right], again[owners]])
            order = np.argsort(owners, kind="stable")
            starts = np.searchsorted(owners[order], np.arange(len(rows) + 1))
            items = np.concatenate([merged.items[right], items]).astype(np.int32)[order]
            written.add(keys[rows], starts, items, np.concatenate([merged.scores[right], scores])[order])
    return len(wrong)


class _Merge:
    """Old lists and those of fresh items, put together."""

    def __init__(self, postings: Postings, fresh: Postings, change: CatalogueChange) -> None:
        self._postings, self._fresh, self._cap = postings, fresh, postings.cap
        self._rows = change.unchanged()
        # The lowest new row of the unchanged items behind an old row: of equal scores, the cap cuts those behind.
        behind = np.where(self._rows >= 0, self._rows, change.num_items)[::-1]
        behind = np.minimum.accumulate(np.concatenate([[change.num_items], behind]))[::-1]
        self._first_behind = behind[1:]

    def of(self, rows: Ints) -> _Merged:
        """Lists of some codes, by item; [Q] rows of both tables."""
        owners, items, scores = self._postings.lists(rows)
        lowest, first_cut = self._ends(len(rows), owners, items, scores)
        left = self._rows[items] >= 0
        fresh = self._fresh.lists(rows)
        owners = np.concatenate([owners[left], fresh[0]])
        merged = np.concatenate([self._rows[items[left]], fresh[1].astype(np.int64)])
        scores = np.concatenate([scores[left], fresh[2]])
        is_above = (scores > lowest[owners]) | ((scores == lowest[owners]) & (merged < first_cut[owners]))
        is_right = (lowest == 0) | (np.bincount(owners[is_above], minlength=len(rows)) >= self._cap)
        best = np.lexsort((merged, -scores, owners))
        counts = np.bincount(owners, minlength=len(rows))
        kept = best[np.arange(len(best)) - np.repeat(np.cumsum(counts) - counts, counts) < self._cap]
        kept = kept[np.lexsort((merged[kept], owners[kept]))]
        return _Merged(owners[kept], merged[kept], scores[kept], is_right)

    def _ends(
        self, num_codes: int, owners: Ints, items: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], Ints]:
        """The lowest score of each list that the cap may have cut, 0 for others, and the first row of what it cut."""
        is_full = np.bincount(owners, minlength=num_codes) >= self._cap
        lowest = np.where(is_full, np.float32(np.inf), np.float32(0))
        np.minimum.at(lowest, owners, scores)
        at_end = scores == lowest[owners]
        last = np.zeros(num_codes, np.int64)
        np.maximum.at(last, owners[at_end], items[at_end])
        return lowest, self._first_behind[last] if len(self._first_behind) else last


def _check(files: ScoringFiles, postings: Postings, change: CatalogueChange) -> None:
    from serving.sparcode.codebook import Codebook
    from serving.sparcode.interactions import load_interaction

    about = postings.about
    for path, found, made_with in (
        (files.codebook, Codebook.load(files.codebook).digest, about.codebook),
        (files.interaction, load_interaction(files.interaction).digest, about.interaction),
    ):
        if found != made_with:
            raise ValueError(
                f"{path}: is {found[:12]}, but {postings.folder} was made with {made_with[:12]}; a changed model needs "
                "its codes scored anew"
            )
    num_items = len(np.load(files.items, mmap_mode="r", allow_pickle=False))
    if num_items != change.num_items or postings.num_items != len(change.new_rows):
        raise ValueError(
            f"the change leads from {len(change.new_rows)} items to {change.num_items}, expected from "
            f"{postings.num_items} of {postings.folder} to {num_items} of {files.items}"
        )
