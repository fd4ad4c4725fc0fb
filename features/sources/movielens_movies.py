"""What is a MovieLens movie called, from when is it, and of which genres?"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from features import columns
from features.sources.values import join_known

TITLE, YEAR, GENRES = "title", "year", "genres"
MOVIE_COLUMNS = (columns.ITEM_ID, columns.ITEM_NAME, TITLE, YEAR, GENRES)
# In the order of the flags of u.item; the flag `unknown` before them says nothing.
GENRE_FLAGS = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def describe(rows: pa.Table, genres: Callable[[pa.Table], pa.ChunkedArray]) -> pa.Table:
    """Adds title without year, year, genres as one text, and the name 'title (year)'.

    Args:
        rows: Movies with item_id, movie_title ('Toy Story (1995)', or without year) and perhaps release_year.
        genres: Rows -> [n] string, genres separated by blanks.

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


def genres_of_flags(rows: pa.Table) -> pa.Array:
    """Genres of a movie as one text, from a column of 0 or 1 for each."""
    flags = [pc.if_else(pc.equal(rows.column(genre), "1"), genre, None) for genre in GENRE_FLAGS]
    return join_known(flags, " ")


def genres_of_bars(rows: pa.Table) -> pa.ChunkedArray:
    """Genres of a movie as one text, from `Action|Comedy` in the column genre_list."""
    text = pc.replace_substring(rows.column("genre_list"), "|", " ")
    return pc.if_else(pc.equal(text, "(no genres listed)"), None, text)
