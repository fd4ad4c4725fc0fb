"""MovieLens is read alike in each of its layouts."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from features.ingest import IngestSummary, SourceError, ingest
from features.schema import Schema
from features.sources.movielens import open_movielens
from features.tables import read_events, read_items, read_users

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
USERS = {"age": "numeric", "gender": "categorical", "occupation": "categorical"}
ITEMS = {"title": "text", "year": "numeric", "genres": ["categorical", "text"]}


def flags(*genres: int) -> str:
    return "|".join("1" if position in genres else "0" for position in range(19))


def write_100k(folder: Path) -> None:
    (folder / "u.data").write_text("1\t10\t5\t100\n2\t20\t3\t200\n2\t10\t1\t300\n")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    heat = f"10|H\xe9at (1995)|01-Jan-1995||http://x|{flags(1, 5)}\n"
    (folder / "u.item").write_bytes((heat + f"20|unknown||||{flags(0)}\n").encode("latin-1"))


def write_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("1::10::5::100\n2::20::3::200\n2::10::1::300\n")
    (folder / "users.dat").write_text("1::M::24::technician::85711\n2::F::53::other::94043\n")
    (folder / "movies.dat").write_bytes("10::H\xe9at (1995)::Action|Comedy\n20::unknown::\n".encode("latin-1"))


def write_25m(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,10,5.0,100\n2,20,3.0,200\n2,10,1.0,300\n")
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n10,"Héat (1995)",Action|Comedy\n20,unknown,(no genres listed)\n'
    )


def write_10m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("1::10::5::100\n2::20::3::200\n2::10::1.0::300\n")
    (folder / "movies.dat").write_text("10::Héat (1995)::Action|Comedy\n20::unknown::\n", encoding="utf-8")


def write_32m(folder: Path) -> None:
    (folder / "ratings.csv").write_text("timestamp,rating,movieId,userId\n100,5.0,10,1\n200,3.0,20,2\n300,1.0,10,2\n")
    (folder / "movies.csv").write_text(
        'movieId,tmdbId,genres,title\n10,7,Action|Comedy,"Héat (1995)"\n20,8,(no genres listed),unknown\n'
    )


def write_recbole(folder: Path) -> None:
    (folder / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t5\t100\n2\t20\t3\t200\n2\t10\t1\t300\n"
    )
    (folder / "ml.user").write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n"
    )
    (folder / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "10\tHéat\t1995\tAction Comedy\n20\tunknown\t\t\n"
    )


def run(folder: Path, *, users: bool = True, min_rating: float = 0.0) -> IngestSummary:
    schema = Schema(user_columns=USERS if users else {}, item_columns=ITEMS)
    source = open_movielens(schema=schema, path=folder, min_rating=min_rating)
    return ingest(source, schema=schema, out=folder / "tables", chunk_rows=2, max_quarantine_share=0.0, now=NOW)


@pytest.mark.parametrize("write", [write_100k, write_1m, write_10m, write_25m, write_32m, write_recbole])
def test_each_layout_gives_the_same_tables(tmp_path, write):
    write(tmp_path)
    has_users = write not in (write_10m, write_25m, write_32m)
    run(tmp_path, users=has_users)
    events = read_events(tmp_path / "tables", first_day=dt.date.min, end_day=dt.date.max)
    assert events.column("user_id").to_pylist() == ["1", "2", "2"]
    assert events.column("item_id").to_pylist() == ["10", "20", "10"]
    assert events.column("reward").to_pylist() == [5.0, 3.0, 1.0]
    assert events.column("timestamp").to_pylist()[0] == dt.datetime(1970, 1, 1, 0, 1, 40, tzinfo=dt.UTC)
    assert read_items(tmp_path / "tables").to_pylist() == [
        {"item_id": "10", "item_name": "Héat (1995)", "title": "Héat", "year": 1995.0, "genres": "Action Comedy"},
        {"item_id": "20", "item_name": "unknown", "title": "unknown", "year": None, "genres": None},
    ]
    described = {"age": [24.0, 53.0], "gender": ["M", "F"], "occupation": ["technician", "other"]} if has_users else {}
    assert read_users(tmp_path / "tables").to_pydict() == {"user_id": ["1", "2"], **described}


def test_a_column_that_the_movies_lack_is_named(tmp_path):
    write_25m(tmp_path)
    (tmp_path / "movies.csv").write_text("movieId,name,genres\n10,Heat,Drama\n")
    with pytest.raises(
        SourceError, match=r"movies.csv: has no column 'title' \(for movie_title\); .* are: movieId, name, genres"
    ):
        run(tmp_path, users=False)


def test_an_invalid_year_is_null_and_the_movie_stays(tmp_path):
    write_recbole(tmp_path)
    (tmp_path / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "10\tHeat\tV\tDrama\n20\tUp\t2009\tComedy\n"
    )
    assert run(tmp_path).quarantined["items"] == {}
    items = read_items(tmp_path / "tables")
    assert items.column("year").to_pylist() == [None, 2009.0]
    assert items.column("item_name").to_pylist() == ["Heat", "Up (2009)"]


def test_low_ratings_are_filtered_counted_and_outside_the_share(tmp_path):
    write_100k(tmp_path)
    summary = run(tmp_path, min_rating=3.0)
    assert summary.filtered == {"below_min_rating": 1}
    assert summary.quarantined["events"] == {}
    assert (summary.rows_read, summary.rows_kept) == (3, 2)
    assert "1 filtered (below_min_rating)" in summary.outcome()


def test_broken_lines_are_numbered_and_set_aside(tmp_path):
    write_1m(tmp_path)
    (tmp_path / "movies.dat").write_text("10::Heat (1995)\n20::Up (2009)::Comedy\n")
    with pytest.raises(ValueError, match=r'1 wrong_fields.*row 1 of movies.dat: \{"line": "10::Heat \(1995\)"\}'):
        run(tmp_path)


def test_user_columns_of_a_layout_without_users_are_refused(tmp_path):
    write_25m(tmp_path)
    with pytest.raises(SourceError, match=r"\(MovieLens 25M\): has no users table.*declares: age, gender, occupation"):
        run(tmp_path)


def test_a_column_that_the_layout_lacks_names_the_nearest_one(tmp_path):
    write_100k(tmp_path)
    with pytest.raises(SourceError, match=r"u.item \(MovieLens 100k\): has no column 'genre'; .* is 'genres'"):
        open_movielens(schema=Schema(item_columns={"genre": "text"}), path=tmp_path)
    with pytest.raises(SourceError, match=r"u.user \(MovieLens 100k\): has no column 'zip'; .* is 'zip_code'"):
        open_movielens(schema=Schema(user_columns={"zip": "categorical"}), path=tmp_path)


def test_missing_unknown_and_ambiguous_folders_are_errors(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere: no such folder; MovieLens may not be redistributed: download"):
        open_movielens(schema=Schema(), path=tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SourceError, match=r"expected exactly one of u.data, ratings.dat, .* found 0 .*: notes.txt"):
        open_movielens(schema=Schema(), path=tmp_path)
    write_100k(tmp_path)
    write_25m(tmp_path)
    with pytest.raises(SourceError, match="found 2 of them"):
        open_movielens(schema=Schema(), path=tmp_path)


def test_undeclared_columns_are_listed_as_unused(tmp_path):
    write_100k(tmp_path)
    assert run(tmp_path).unused_columns == {"events": (), "users": ("zip_code",), "items": ()}
