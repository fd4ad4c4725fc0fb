"""Adapter of MovieLens as downloaded, in any of its layouts; a rating becomes the reward of an event.

All ratings are one file in no order of time, so all of it is read whenever it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from features import columns
from features.schema import ENTITY_KEY, Schema, Tower
from features.sources.files import Dialect, column_names, read_delimited
from features.sources.raw import (
    Chunk,
    RawTable,
    Source,
    SourceError,
    choose_columns,
    refuse_columns,
    refuse_event_columns,
    unused_columns,
)
from features.sources.values import join_known

TITLE, YEAR, GENRES = "title", "year", "genres"
MOVIE_COLUMNS = (columns.ITEM_ID, columns.ITEM_NAME, TITLE, YEAR, GENRES)
# In the order of the flags of u.item; the flag `unknown` before them is ignored.
GENRE_FLAGS = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def describe(rows: pa.Table, genres: Callable[[pa.Table], pa.ChunkedArray]) -> pa.Table:
    """Adds title without year, year, the list of genres, and the name 'title (year)'.

    Args:
        rows: Movies with item_id, movie_title ('Toy Story (1995)', or without year) and perhaps release_year.
        genres: Rows -> [n] lists of genres.

    Returns:
        The rows with these columns; where a raw column has the name of one, it is replaced.
    """
    whole = rows.column("movie_title")
    parts = pc.extract_regex(whole, r"^(?P<title>.*?)\s*\((?P<year>\d{4})\)\s*$")
    title = pc.coalesce(pc.struct_field(parts, "title"), whole)
    year = rows.column("release_year") if "release_year" in rows.column_names else pc.struct_field(parts, "year")
    # RecBole's layout has 'V' for the year of a film that came out on video.
    year = pc.if_else(pc.match_substring_regex(year, r"^\d{4}$"), year, None)
    name = pc.coalesce(pc.binary_join_element_wise(title, " (", year, ")", ""), title)
    added = {columns.ITEM_NAME: name, TITLE: title, YEAR: year, GENRES: genres(rows)}
    kept = {column: rows.column(column) for column in rows.column_names if column not in added}
    return pa.table({**kept, **added})


def genres_of_flags(rows: pa.Table) -> pa.ChunkedArray:
    """Genres of a movie, from a column of 0 or 1 for each."""
    flags = [pc.if_else(pc.equal(rows.column(genre), "1"), genre, None) for genre in GENRE_FLAGS]
    return pc.split_pattern(join_known(flags, "|"), "|")


def genres_of_bars(rows: pa.Table) -> pa.ChunkedArray:
    """Genres of a movie, from `Action|Comedy` in the column genre_list."""
    text = rows.column("genre_list")
    return pc.split_pattern(pc.if_else(pc.equal(text, "(no genres listed)"), None, text), "|")


RATING = "rating"
RATING_NAMES = (columns.USER_ID, columns.ITEM_ID, RATING, columns.TIMESTAMP)


@dataclass(frozen=True)
class Part:
    """One file of a layout.

    Attributes:
        path: The file.
        dialect: How it is delimited.
        columns: Our name -> raw column, or column that `derive` adds.
        derive: Raw columns -> the same and the derived ones.
    """

    path: Path
    dialect: Dialect
    columns: Mapping[str, str]
    derive: Callable[[pa.Table], pa.Table] | None = None


@dataclass(frozen=True)
class Layout:
    """The files of a folder; a part that the layout does not have is None."""

    name: str
    ratings: Part
    users: Part | None
    movies: Part | None


def find_layout(folder: Path) -> Layout:
    """Recognises a MovieLens folder by its files.

    Raises:
        SourceError: The folder is missing, or holds none of the layouts or several.
    """
    if not folder.is_dir():
        raise SourceError(
            f"{folder}: no such folder; MovieLens may not be redistributed: download it from "
            "https://grouplens.org/datasets/movielens/, unpack it and set ingest.source.path to the folder"
        )
    found = [layout for name, layout in LAYOUTS.items() if list(folder.glob(name))]
    if len(found) != 1:
        present = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        raise SourceError(
            f"{folder}: expected exactly one of {', '.join(LAYOUTS)}; found {len(found)} of them among: {present}"
        )
    return found[0](folder)


def _layout_100k(folder: Path) -> Layout:
    def bars(file: str, *names: str) -> Dialect:
        return Dialect("|", quoted=False, encoding=_encoding(folder / file), names=names)

    users = ("user_id", "age", "gender", "occupation", "zip_code")
    movies = ("item_id", "movie_title", "release_date", "video_date", "url", "unknown", *GENRE_FLAGS)
    return Layout(
        "MovieLens 100k",
        Part(folder / "u.data", Dialect("\t", quoted=False, names=RATING_NAMES), _same(RATING_NAMES)),
        _if_there(Part(folder / "u.user", bars("u.user", *users), _same(users))),
        _if_there(_movies(folder / "u.item", bars("u.item", *movies), genres_of_flags)),
    )


def _layout_1m(folder: Path) -> Layout:
    def colons(file: str, *names: str) -> Dialect:
        return Dialect("::", quoted=False, encoding=_encoding(folder / file), names=names)

    users = ("user_id", "gender", "age", "occupation", "zip_code")
    movies = ("item_id", "movie_title", "genre_list")
    return Layout(
        "MovieLens 1M",
        Part(folder / "ratings.dat", colons("ratings.dat", *RATING_NAMES), _same(RATING_NAMES)),
        _if_there(Part(folder / "users.dat", colons("users.dat", *users), _same(users))),
        _if_there(_movies(folder / "movies.dat", colons("movies.dat", *movies), genres_of_bars)),
    )


def _layout_25m(folder: Path) -> Layout:
    ratings = {"user_id": "userId", "item_id": "movieId", RATING: RATING, "timestamp": "timestamp"}
    raw = {"item_id": "movieId", "movie_title": "title", "genre_list": "genres"}

    def derive(rows: pa.Table) -> pa.Table:
        return describe(pa.table({ours: rows.column(theirs) for ours, theirs in raw.items()}), genres_of_bars)

    path = folder / "movies.csv"
    if path.exists():
        choose_columns(raw, (), available=column_names(path, Dialect()), where=str(path))
    movies = Part(path, Dialect(), _same(MOVIE_COLUMNS), derive)
    return Layout("MovieLens 25M", Part(folder / "ratings.csv", Dialect(), ratings), None, _if_there(movies))


def _layout_recbole(folder: Path) -> Layout:
    [ratings] = folder.glob("*.inter")
    tabs = Dialect("\t", quoted=False)
    users, movies = ratings.with_suffix(".user"), ratings.with_suffix(".item")

    def plain(path: Path) -> dict[str, str]:
        """Column names without the type that follows them in the header, as in `user_id:token`."""
        return {name.partition(":")[0]: name for name in column_names(path, tabs)}

    return Layout(
        "MovieLens in RecBole's layout",
        Part(ratings, tabs, plain(ratings)),
        Part(users, tabs, plain(users)) if users.exists() else None,
        _recbole_movies(movies, tabs, plain(movies)) if movies.exists() else None,
    )


def _recbole_movies(path: Path, dialect: Dialect, names: Mapping[str, str]) -> Part:
    genres = names.get("genre", names.get("class"))

    def derive(rows: pa.Table) -> pa.Table:
        plain = rows.rename_columns([name.partition(":")[0] for name in rows.column_names])
        text = rows.column(genres) if genres else pa.nulls(rows.num_rows, pa.string())
        return describe(plain, lambda _: pc.utf8_split_whitespace(text))

    return Part(path, dialect, _same(MOVIE_COLUMNS), derive)


def _movies(path: Path, dialect: Dialect, genres: Callable[[pa.Table], pa.ChunkedArray]) -> Part:
    return Part(path, dialect, _same(MOVIE_COLUMNS), lambda rows: describe(rows, genres))


def _encoding(path: Path) -> str:
    """How the text of a file is encoded: 10M is UTF-8 where 100k and 1M are Latin-1. Ratings are ASCII."""
    if path.name.startswith("ratings") or not path.exists():
        return "utf-8"
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _same(names: tuple[str, ...]) -> dict[str, str]:
    return {name: name for name in names}


def _if_there(part: Part) -> Part | None:
    return part if part.path.exists() else None


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "u.data": _layout_100k,
    "ratings.dat": _layout_1m,
    "ratings.csv": _layout_25m,
    "*.inter": _layout_recbole,
}


def open_movielens(*, schema: Schema, path: Path, min_rating: float = 0.0) -> Source:
    """Recognises the layout of a folder and opens it.

    Columns that can be declared: users have `age`, `gender`, `occupation` and `zip_code` (100k, 1M and RecBole's
    layout; 25M has no users table), items have `title` (without year), `year` and `genres` (a list).

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
    refuse_event_columns(schema, where=f"{path} ({layout.name})")
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
