"""Which files does a MovieLens folder have, and what is in their columns? Four layouts of the same data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from features import columns
from features.sources.delimited import Dialect, column_names
from features.sources.movielens_movies import GENRE_FLAGS, MOVIE_COLUMNS, describe, genres_of_bars, genres_of_flags
from features.sources.raw import SourceError

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
    bars = {"delimiter": "|", "quoted": False, "encoding": "latin-1"}
    users = ("user_id", "age", "gender", "occupation", "zip_code")
    movies = ("item_id", "movie_title", "release_date", "video_date", "url", "unknown", *GENRE_FLAGS)
    return Layout(
        "MovieLens 100k",
        Part(folder / "u.data", Dialect("\t", quoted=False, names=RATING_NAMES), _same(RATING_NAMES)),
        _if_there(Part(folder / "u.user", Dialect(names=users, **bars), _same(users))),  # type: ignore[arg-type]
        _if_there(_movies(folder / "u.item", Dialect(names=movies, **bars), genres_of_flags)),  # type: ignore[arg-type]
    )


def _layout_1m(folder: Path) -> Layout:
    def colons(*names: str) -> Dialect:
        return Dialect("::", quoted=False, encoding="latin-1", names=names)

    users = ("user_id", "gender", "age", "occupation", "zip_code")
    return Layout(
        "MovieLens 1M",
        Part(folder / "ratings.dat", colons(*RATING_NAMES), _same(RATING_NAMES)),
        _if_there(Part(folder / "users.dat", colons(*users), _same(users))),
        _if_there(_movies(folder / "movies.dat", colons("item_id", "movie_title", "genre_list"), genres_of_bars)),
    )


def _layout_25m(folder: Path) -> Layout:
    ratings = {"user_id": "userId", "item_id": "movieId", RATING: RATING, "timestamp": "timestamp"}
    raw = {"item_id": "movieId", "movie_title": "title", "genre_list": "genres"}

    def derive(rows: pa.Table) -> pa.Table:
        return describe(rows.rename_columns(list(raw)), genres_of_bars)

    movies = Part(folder / "movies.csv", Dialect(), _same(MOVIE_COLUMNS), derive)
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
        return describe(plain, lambda _: text)

    return Part(path, dialect, _same(MOVIE_COLUMNS), derive)


def _movies(path: Path, dialect: Dialect, genres: Callable[[pa.Table], pa.ChunkedArray]) -> Part:
    return Part(path, dialect, _same(MOVIE_COLUMNS), lambda rows: describe(rows, genres))


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
