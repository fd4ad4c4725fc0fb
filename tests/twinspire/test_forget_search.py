"""A person leaves every kind of file of a run folder, wherever it lies; namesakes that are no people stay."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.paths import RunPaths
from twinspire.forget_everywhere import FORGETTING, bundles_naming, forget, known, remember
from twinspire.forget_search import REMOVED

DAY = dt.date(2024, 1, 9)
WANDA, OTHER = "Wanda Quux", "c08"


def sqlite(path: Path, *ids: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE lists (user_id TEXT, note TEXT)")
        database.executemany("INSERT INTO lists VALUES (?, 'x')", [(one,) for one in ids])


def table(path: Path, **values: list[Any]) -> None:
    pq.write_table(pa.table(values), path)


def html(one: str) -> str:
    rows = "".join(f"<tr><th>{user}</th><td>3</td></tr>\n" for user in (one, OTHER))
    return f"<html><p>12 users</p><table>{rows}</table></html>"


# Where a file may lie -> what writes it, naming one person and another one.
PLANTED: dict[str, Callable[[Path, str], object]] = {
    "ab/2024-01-09/ab.json": lambda path, one: path.write_text(
        json.dumps({"num_users": 12, "comparisons": [{"differing": [{"user_id": one}, {"user_id": OTHER}]}]})
    ),
    "ab/2024-01-09/ab.html": lambda path, one: path.write_text(html(one)),
    "reports/2024-01-09/report.html": lambda path, one: path.write_text(f"<p>user {one} is lost</p>"),
    "reports/2024-01-09/table.txt": lambda path, one: path.write_text(f"all users\nuser {one}\nuser {OTHER}\n"),
    "reports/2024-01-09/by_user.json": lambda path, one: path.write_text(json.dumps({"users": {one: 1, OTHER: 2}})),
    "nights/2024-01-09.log": lambda path, one: path.write_text(json.dumps({"error": f"a row, such as '{one}'"}) + "\n"),
    "gates/2024-01-09.json": lambda path, one: path.write_text(
        json.dumps({"checks": [{"sentence": f"{one} is lost"}]})
    ),
    "steps/ingest.json": lambda path, one: path.write_text(json.dumps({"outcome": f"unknown users, such as '{one}'"})),
    "mined/2024-01-09/negatives-0.parquet": lambda path, one: table(path, user_id=[one, OTHER], item_id=["a", "b"]),
    "teachers/ease-1a2b3c4d/2024-01-01.parquet": lambda path, one: table(
        path, user_id=[one, OTHER], item_id=["a", "b"]
    ),
    "exposures/day=2024-01-09/a-1.parquet": lambda path, one: table(path, user_id=[one, OTHER], arm=["a", "a"]),
    "elsewhere/lists.parquet": lambda path, one: table(path, users=[[OTHER, one], [OTHER]]),
    "elsewhere/plain.parquet": lambda path, one: table(path, userId=pa.array([one, OTHER]).dictionary_encode()),
    "elsewhere/cache.db": lambda path, one: sqlite(path, one, OTHER),
    "elsewhere/cache": lambda path, one: sqlite(path, one, OTHER),
    "elsewhere/users.csv": lambda path, one: path.write_text(f"user_id,n\n{one},3\n{OTHER},12\n"),
    "elsewhere/notes": lambda path, one: path.write_text(f"asked by user {one}"),
    "elsewhere/log.jsonl": lambda path, one: path.write_text(f'{{"user": "{one}"}}\n{{"user": "{OTHER}"}}\n'),
    "elsewhere/users.npy": lambda path, one: np.save(path, np.array([one, OTHER])),
    "elsewhere/users.npz": lambda path, one: np.savez(
        path, allow_pickle=False, a=np.ones(2), b=np.array([one.encode()])
    ),
    "elsewhere/a.json.gz": lambda path, one: path.write_bytes(gzip.compress(f'{{"user_id": "{one}"}}'.encode())),
    "elsewhere/a.txt.bz2": lambda path, one: path.write_bytes(bz2.compress(f"user {one}".encode())),
    "elsewhere/user={}/list.txt": lambda path, one: path.write_text("nothing"),
}


def plant(root: Path, one: str, places: Any = PLANTED) -> None:
    for place in places:
        path = root / place.format(one)
        path.parent.mkdir(parents=True, exist_ok=True)
        PLANTED[place](path, one)


def content_of(path: Path) -> str:
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pydict())
    if path.suffix in (".npy", ".npz"):
        return str(np.load(path, allow_pickle=False).tolist()) if path.suffix == ".npy" else "npz"
    if path.suffix in (".gz", ".bz2"):
        return {".gz": gzip, ".bz2": bz2}[path.suffix].decompress(path.read_bytes()).decode()  # type: ignore[attr-defined, no-any-return]
    return path.read_bytes().decode("latin-1")


def naming(root: Path, one: str) -> list[str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return [str(path) for path in files if one in content_of(path) or one in str(path.relative_to(root))]


def test_a_person_leaves_every_kind_of_file_and_others_stay(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "stall", DAY)
    plant(paths.root, WANDA)
    for place in PLANTED:
        assert known(RunPaths(paths.root, DAY), [WANDA, "nobody"]) == {WANDA}, place
    remember(paths, [WANDA])
    places = {removed.where: removed.num_rows for removed in forget(paths, [WANDA])}
    assert places == {
        "ab": 2, "reports": 3, "logs and reports of nights": 2, "mined negatives": 1, "lists of teachers": 1,
        "exposures": 1, "elsewhere": 12,
    }  # fmt: skip
    assert naming(paths.root, WANDA) == []
    assert not (paths.root / FORGETTING).exists()
    assert forget(paths, [WANDA]) == []
    kept = {str(path.relative_to(paths.root)) for path in paths.root.rglob("*") if path.is_file()}
    gone = {"reports/2024-01-09/report.html", "steps/ingest.json"}
    removed = {"users.npy", "users.npz", "a.json.gz", "a.txt.bz2", "user={}/list.txt", "notes"}
    assert kept == PLANTED.keys() - gone - {f"elsewhere/{name}" for name in removed} | {"forgotten.json"}
    ab = json.loads((paths.root / "ab/2024-01-09/ab.json").read_text())
    assert ab == {"num_users": 12, "comparisons": [{"differing": [{"user_id": OTHER}]}]}
    assert OTHER in (paths.root / "ab/2024-01-09/ab.html").read_text()
    assert json.loads((paths.root / "gates/2024-01-09.json").read_text()) == {"checks": [{"sentence": REMOVED}]}
    for name in ("cache.db", "cache", "lists.parquet", "plain.parquet", "users.csv", "log.jsonl"):
        assert OTHER in content_of(paths.root / "elsewhere" / name), name


@pytest.mark.parametrize("place", PLANTED)
def test_each_kind_of_file_is_found_alone(tmp_path: Path, place: str) -> None:
    for one in (WANDA, "12"):
        paths = RunPaths(tmp_path / one.split()[0], DAY)
        plant(paths.root, one, [place])
        assert known(paths, [one, "nobody"]) == {one}
        forget(paths, [one])
        assert known(paths, [one]) == set()


NAMESAKES = {
    "exposures/day=2024-01-09/a-1.parquet": {"user_id": [OTHER], "arm": ["default"], "item_ids": [["12"]]},
    "features/snapshots/user/1.parquet": {"user_id": [OTHER], "user_history": [["12"]], "user_num_events": [12]},
    "features/snapshots/item/1.parquet": {"item_id": ["12"], "brand": ["default"]},
    "tables/items.parquet": {"item_id": ["12", "default"]},
    "models/2024-01-09/encoder/town.parquet": {"id": ["default", "12"]},
}


@pytest.mark.parametrize("one", ["12", "default"])
def test_items_arms_categories_and_figures_of_the_same_name_stay(tmp_path: Path, one: str) -> None:
    paths = RunPaths(tmp_path, DAY)
    for place, values in NAMESAKES.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        table(tmp_path / place, **values)
    documents = {
        "models/2024-01-09/encoder/encoder.json": {"town": ["default", "12"], "num_users": 12},
        "nights/2024-01-09.json": {
            "outcome": "published",
            "why": "full",
            "steps": [{"name": "default", "seconds": 12}],
        },
        "tables/manifest.json": {"num_users": 12, "columns": {"default": "12"}},
        "features/about.json": {"project": "default"},
        "reports/2024-01-09/report.json": {"num_users": 12, "arms": {"A": 12}},
    }
    for place, document in documents.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(json.dumps(document))
    (tmp_path / "denied_items.txt").write_text("12\ndefault\n")
    (tmp_path / "reports" / "2024-01-09" / "report.html").write_text(
        "<p>12 users</p><table><tr><td>12</td></tr></table>"
    )
    (tmp_path / "models" / "2024-01-09" / "vocabulary.npy").parent.mkdir(exist_ok=True)
    np.save(tmp_path / "models" / "2024-01-09" / "vocabulary.npy", np.array(["default", "12"]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert known(paths, [one]) == set()
    assert forget(paths, [one]) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


class Killed(BaseException):
    """Not an error that anybody catches."""


@pytest.mark.parametrize("allowed", range(0, 14, 2))
def test_the_next_call_for_anybody_finishes_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    paths = RunPaths(tmp_path / "stall", DAY)
    plant(paths.root, WANDA)
    calls: list[object] = []
    real_replace, real_unlink = os.replace, Path.unlink

    def killed_at(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **options: Any) -> Any:
            if len(calls) == allowed:
                raise Killed
            calls.append(arguments)
            return real(*arguments, **options)

        return change

    monkeypatch.setattr(os, "replace", killed_at(real_replace))
    monkeypatch.setattr(Path, "unlink", killed_at(real_unlink))
    try:
        remember(paths, [WANDA])
        forget(paths, [WANDA])
    except Killed:
        pass
    monkeypatch.undo()
    begun = (paths.root / FORGETTING).exists()
    if begun:
        assert (paths.root / FORGETTING).stat().st_mode & 0o777 == 0o600
    remember(paths, ["nobody"])
    forget(paths, ["nobody"])
    # Before it was written down, nothing had happened.
    assert naming(paths.root, WANDA) == [] or not begun
    assert begun == (allowed > 0)
    assert not (paths.root / FORGETTING).exists()


def test_bundles_are_searched_and_not_changed(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, DAY)
    for version, one in (("2024-01-08-aaaaaaaa", WANDA), ("2024-01-09-bbbbbbbb", OTHER)):
        folder = paths.bundles / version / "encoder"
        folder.mkdir(parents=True)
        table(folder / "user_ids.parquet", id=[one])
    before = naming(tmp_path, WANDA)
    assert bundles_naming(paths, [WANDA]) == ["2024-01-08-aaaaaaaa"]
    assert known(paths, [WANDA]) == {WANDA}
    assert forget(paths, [WANDA]) == []
    assert naming(tmp_path, WANDA) == before
