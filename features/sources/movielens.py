"""How is MovieLens read? As downloaded, in whichever of its layouts; a rating becomes the reward of an event.

All ratings are one file in no order of time, so all of it is read whenever it changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from features import columns
from features.schema import ENTITY_KEY, Schema, Tower
from features.sources.delimited import column_names, read_delimited
from features.sources.movielens_formats import RATING, Layout, Part, find_layout
from features.sources.raw import Chunk, RawTable, Source, choose_columns, refuse_columns, unused_columns


def open_movielens(*, schema: Schema, path: Path, min_rating: float = 0.0) -> Source:
    """Recognises the layout of a folder and opens it.

    Columns that can be declared: users have `age`, `gender`, `occupation` and `zip_code` (100k, 1M and RecBole's
    layout; 25M has no users table), items have `title` (without year), `year` and `genres` ('Action Comedy').

    Args:
        schema: The declared columns.
        path: The folder.
        min_rating: Ratings below it are filtered: counted, but neither kept nor quarantined.

    Returns:
        The dataset.

    Raises:
        SourceError: The folder is no MovieLens, or its layout lacks a declared column.
    """
    layout = find_layout(path)
    events = {name: name for name in (columns.USER_ID, columns.ITEM_ID, columns.TIMESTAMP)}
    ratings = _table(layout.ratings, {**events, columns.REWARD: RATING}, layout)
    return Source(
        events=replace(ratings, min_reward=min_rating or None),
        users=_entities(layout.users, schema, "user", layout, path),
        items=_entities(layout.movies, schema, "item", layout, path),
    )


def _entities(part: Part | None, schema: Schema, tower: Tower, layout: Layout, folder: Path) -> RawTable | None:
    if part is None:
        refuse_columns(schema, tower, where=f"{folder} ({layout.name})")
        return None
    names = [ENTITY_KEY[tower], *schema.columns_of(tower)]
    if columns.ITEM_NAME in part.columns:
        names.append(columns.ITEM_NAME)
    return _table(part, {name: name for name in names}, layout)


def _table(part: Part, wanted: Mapping[str, str], layout: Layout) -> RawTable:
    where = f"{part.path} ({layout.name})"
    chosen = choose_columns(wanted, (), available=list(part.columns), where=where)
    raw = column_names(part.path, part.dialect)
    if part.derive is None:
        choose_columns(part.columns, (), available=raw, where=where)
    needed = raw if part.derive else [part.columns[name] for name in chosen.values()]

    def read(chunk_rows: int) -> Iterator[Chunk]:
        for chunk in read_delimited(part.path, part.dialect, wanted=needed, chunk_rows=chunk_rows):
            yield replace(chunk, rows=part.derive(chunk.rows)) if part.derive else chunk

    unused = unused_columns(list(part.columns), chosen)
    names = {name: part.columns[ours] for name, ours in chosen.items()}
    return RawTable(names, unused, read, kinds=dict.fromkeys(raw, "text"))
