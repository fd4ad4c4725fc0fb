"""GDPR erasure: a forgotten person leaves every artefact, and the next night runs without them."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features.ids import IdMap
from serving.bundles.bundle import Bundle
from serving.retrieval.distinct import num_indexed
from tests import forking

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

# No digest holds it by chance.
WANDA = "Wanda Quux"
DAY, NEXT_DAY = dt.date(2024, 2, 4), dt.date(2024, 2, 5)
Ran = subprocess.CompletedProcess[str]


def twinspire(*arguments: object) -> Ran:
    """Runs the command as a user does."""
    command = [sys.executable, "-m", "twinspire", *map(str, arguments)]
    return forking.run(command, check=False, capture_output=True, text=True)


def text_of(path: Path) -> str:
    """The decompressed content of a file."""
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pydict())
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return str([(name, file[name].tobytes()) for name in file.files])
    return path.read_bytes().decode("latin-1")


def naming(root: Path, name: str = WANDA) -> list[str]:
    """Files below a folder that name somebody, or are called like them."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(str(path.relative_to(root)) for path in files if name in text_of(path) or name in str(path))


@dataclass(frozen=True)
class Story:
    """What happened to the shop, in order."""

    root: Path
    flags: list[str]
    before: list[str]
    forgot: Ran
    after: list[str]
    unfinished: list[Path]
    again: Ran
    night: Ran
    online: set[str]
    at_last: Ran

    def do(self, *command: object) -> Ran:
        return twinspire(*command, *self.flags)


def online_users(root: Path) -> set[str]:
    """Users whom the only version of the online features names."""
    [file] = (root / "features" / "online").glob("*/online.db")
    with sqlite3.connect(file) as database:
        [table] = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        keys = [key for (key,) in database.execute(f'SELECT DISTINCT entity_key FROM "{table}"')]
    return {key[-3:].decode() if WANDA.encode() not in key else WANDA for key in keys}


@pytest.fixture(scope="module")
def story(shop_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A night, Wanda asks to be forgotten, the next night, and the bundles before it go."""
    folder = tmp_path_factory.mktemp("wanda") / "shop"
    shutil.copytree(shop_config.parent, folder)
    config = folder / shop_config.name
    config.write_text(config.read_text().replace(str(shop_config.parent), str(folder)))
    for path in [folder / "customers.csv", *(folder / "orders").glob("*.csv")]:
        path.write_text(path.read_text().replace("c07", WANDA))
    with (folder / "orders" / "february.csv").open("a") as file:
        file.write(f"{WANDA},a001,4102444800000,3.0\n{WANDA},a001,1706000000000,3.0,too,many\n")
    flags = ["--config", str(config), "--runs", str(folder / "runs"), "--now", "2024-03-01"]
    flags += ["--set", "gates.skip=[held_out_recall, changed_lists]"]
    root = folder / "runs" / "corner_shop"
    first = twinspire("daily", "--date", DAY, *flags)
    assert first.returncode == 0, first.stderr
    with (root / "nights" / f"{DAY}.log").open("a") as file:
        file.write(json.dumps({"event": "night fails", "error": f"1 row is missing, such as {WANDA} at noon"}) + "\n")
    # What a fit that was interrupted leaves has rows of users that cannot be cut out.
    (root / "models" / f".{DAY}.fit" / "final").mkdir(parents=True)
    before = naming(root)
    forgot = twinspire("forget", "--user", WANDA, "--user", "nobody", *flags)
    after, unfinished = naming(root), list(root.glob("models/.*"))
    online = online_users(root)
    again = twinspire("forget", "--user", WANDA, *flags)
    night = twinspire("daily", "--date", NEXT_DAY, *flags)
    at_last = twinspire("forget", "--user", WANDA, "--bundles", "--json", *flags)
    return Story(root, flags, before, forgot, after, unfinished, again, night, online, at_last)


def test_a_person_is_named_in_many_places_and_then_only_by_the_bundle_that_is_served(story: Story) -> None:
    places = {name.split("/")[0] for name in story.before}
    assert places == {"bundles", "features", "models", "nights", "tables", "tables.sources"}
    assert any(re.fullmatch(r"features/online/[^/]+/online\.db", name) for name in story.before)
    assert (story.forgot.returncode, story.forgot.stderr) == (0, "")
    assert {name.split("/")[0] for name in story.after} == {"bundles"}
    assert {name.split("/")[1][:10] for name in story.after} == {str(DAY)}
    assert story.unfinished == []


def test_the_command_reports_what_was_removed_and_what_remains(story: Story) -> None:
    output = story.forgot.stdout
    for place in ("models, vectors", "features", "online store", "logs and reports", "tables, events", "tables, users"):
        assert place in output
    assert "nobody: not known here, nothing to do; remembered" in output
    assert f"bundle {DAY}-" in output
    assert "still names them: it is served; the next `twinspire daily`, or --rebuild" in output
    assert story.again.returncode == 0
    assert "everything but bundles had forgotten them already" in story.again.stdout


def test_the_others_stay_in_the_online_store(story: Story) -> None:
    assert story.online == {f"c{user:02}" for user in range(60)} - {"c07"}


def test_the_next_night_is_a_warm_start_from_the_fit_without_them(story: Story) -> None:
    assert story.night.returncode == 0, story.night.stderr
    assert f"{NEXT_DAY} warm start from {DAY}" in story.night.stdout
    assert "filtered (forgotten)" in story.night.stdout
    users = IdMap.load(story.root / "models" / str(NEXT_DAY) / "encoder" / "user_ids.parquet")
    assert len(users) == 60
    assert not users.rows([WANDA])[0]


def test_in_the_end_no_artefact_names_them(story: Story) -> None:
    assert story.at_last.returncode == 0, story.at_last.stderr
    result: dict[str, Any] = json.loads(story.at_last.stdout)
    assert [version[:10] for version in result["bundles_removed"]] == [str(DAY)]
    assert (result["bundles"], result["published"]) == ([], None)
    assert naming(story.root) == []


@pytest.fixture(scope="module")
def made_again(story: Story) -> Ran:
    """The night once more, at once: without another person, and without two items that left the shop's own table."""
    path = next(story.root.parents[1].glob("articles.parquet"))
    pd.read_parquet(path).query("article not in ['a000', 'a001']").to_parquet(path)
    return story.do("forget", "--user", "c08", "--rebuild", "--bundles")


def test_the_bundle_of_the_same_day_can_be_made_again_at_once(story: Story, made_again: Ran) -> None:
    assert made_again.returncode == 0, made_again.stderr
    assert (story.root / "bundles" / "current").resolve().name.startswith(str(NEXT_DAY))
    assert f"bundle {NEXT_DAY}-" in made_again.stdout
    for path in story.root.glob("bundles/*/encoder/user_ids.parquet"):
        assert "c08" not in pq.read_table(path).column("id").to_pylist()


def test_an_item_that_left_the_table_of_items_is_offered_no_more_and_stays_in_histories(
    story: Story, made_again: Ran
) -> None:
    assert made_again.returncode == 0, made_again.stderr
    bundle = Bundle.open(story.root / "bundles" / "current")
    assert bundle.encoder.item_ids.ids(bundle.withdrawn + 1) == ["a000", "a001"]
    assert num_indexed("ip", bundle.folder / "index.hnsw") == len(bundle.item_vectors) - 2 == 118
    catalogue = pq.read_table(story.root / "features" / "catalogue" / str(NEXT_DAY) / "users.parquet")
    histories = catalogue.column("user_history").to_pylist()
    assert any("a000" in history for history in histories)
    assert (np.bincount(bundle.purchases.indices)[bundle.withdrawn] > 0).all()
    flags = [flag for flag in story.flags if flag not in ("--now", "2024-03-01")]
    for retriever in ("two_tower", "popularity", "repeat"):
        asked = ["--user", "c00", "--user", "c02", "-k", "120", "--retriever", retriever, "--json"]
        ran = twinspire("recommend", *asked, *flags)
        assert ran.returncode == 0, ran.stderr
        for answer in json.loads(ran.stdout)["answers"]:
            found = [item["item_id"] for item in answer["items"]]
            assert found
            assert not {"a000", "a001"} & set(found)
            assert retriever == "repeat" or len(found) == 118
