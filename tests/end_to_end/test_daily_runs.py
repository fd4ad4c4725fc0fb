"""From events to the answer: a small shop on two days, through the command line and over HTTP."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from artefacts.config import pick
from artefacts.paths import RunPaths
from features.columns import midnight, seconds_of
from features.encoding import moments_of
from features.store import Store
from serving.bundles.bundle import Bundle
from serving.config import ServeSections
from serving.open import open_recommender
from serving.retrieval.ranking import Rows, Scores, padding
from serving.retrieval.retrievers import UserQueries
from serving.retrieval.vectors import read_vectors
from tests import forking
from twinspire.load_config import dump, load

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

STEPS = ("ingest", "features", "train", "embed", "index", "bundle", "publish", "evaluate")
USERS = ("c00", "c01", "c30", "c31")


@dataclass(frozen=True)
class State:
    """What a folder holds: path inside it -> inode, time, size."""

    files: dict[str, tuple[int, int, int]]

    @classmethod
    def of(cls, folder: Path) -> State:
        found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
        return cls({name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found.items()})


@dataclass(frozen=True)
class TwoDays:
    """The shop after both days, and what it was between them."""

    first: Any
    second: Any
    examples: State
    snapshots: State
    bundles: State
    published: str
    repeated: Any = field(repr=False)


@pytest.fixture(scope="module")
def two_days(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> TwoDays:
    """Runs the first day again, then the next one, in a copy."""
    first_day = first_day.copy(tmp_path_factory.mktemp("two_days") / "runs")
    root = first_day.root
    published = (root / "bundles" / "current").readlink().name
    examples, bundles = State.of(root / "features" / "examples"), State.of(root / "bundles")
    snapshots = State.of(root / "features" / "snapshots" / "user")
    repeated = first_day.do("run", "--now", "2024-03-01")
    ran = first_day.do("run", "--now", "2024-03-01", "--as-of", first_day.next_day)
    assert ran.returncode == 0, ran.stderr
    return TwoDays(first_day, replace(first_day, ran=ran), examples, snapshots, bundles, published, repeated)


def lines_of(text: str) -> dict[str, str]:
    """First word of each line -> its rest."""
    return {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[-1] for line in text.splitlines() if line.strip()}


def test_a_run_prints_one_line_a_step_and_nothing_to_standard_error(first_day: Any) -> None:
    ran = first_day.ran
    assert (ran.returncode, ran.stderr) == (0, "")
    printed = [line.split()[0] for line in ran.stdout.splitlines() if line and line.split()[0] in STEPS]
    assert printed == list(STEPS)
    lines = lines_of(ran.stdout)
    assert lines["ingest"].startswith("1,668 of 1,669 events")
    assert "1 null_id" in lines["ingest"]
    assert "joined for 20 new days, none lost, none with a younger feature" in lines["features"]
    assert "120 item vectors and 60 user vectors of width 13" in lines["embed"]


def test_a_run_ends_with_names_the_table_the_report_and_the_next_command(first_day: Any) -> None:
    shown = first_day.ran.stdout
    lines = lines_of(shown)
    report = first_day.root / "reports" / str(first_day.day) / "report.html"
    assert lines["Report:"] == str(report)
    flags = f"--config {first_day.config} --runs {first_day.runs}"
    assert lines["Next:"] == f"twinspire recommend {flags} --user c00 --exclude-bought"
    assert f"twinspire serve {flags}" in shown
    for expected in ("User c00", "last bought", "fruit number ", "tool number ", "new to the user"):
        assert expected in shown
    assert max(map(len, shown[shown.index("all purchases") : shown.index("Report:")].splitlines())) <= 100


def test_a_run_leaves_everything_that_the_documentation_promises(first_day: Any) -> None:
    root, day = first_day.root, str(first_day.day)
    config = load(first_day.config)
    assert (root / "steps" / day / "config.yaml").read_text() == dump(config)
    assert {path.stem for path in (root / "steps" / day).glob("*.json")} == set(STEPS) - {"ingest"}
    model = root / "models" / day
    epochs = json.loads((model / "epochs.json").read_text())
    assert len(epochs["validation"]) == 2
    [best] = [report["epoch"] for report in epochs["validation"] if report["is_kept"]]
    assert len(epochs["final"]) == best
    assert epochs["validation"][-1]["metrics"].keys() >= {"recall_at_5", "recall_at_20", "distinct_items"}
    for phase in ("validation", "final"):
        assert list((model / phase / "logs").glob("events.out.tfevents.*"))
    report = json.loads((root / "reports" / day / "report.json").read_text())
    served = json.loads((root / "bundles" / "current" / "manifest.json").read_text())["facts"]["served"]
    arms = ["two-tower", "two-tower, HNSW", f"served ({served['retriever']})"]
    arms += ["popularity, 28 days", "repeat purchase", "item-kNN", "EASE", "ALS"]
    for task in report["tasks"]:
        assert [arm["name"] for arm in task["arms"]] == arms
        assert {task["arms"][6]["letter"]} == {found["reference"] for found in task["comparisons"]}
        assert all(0 < found["metrics"]["recall@20"]["adjusted_p"] <= 1 for found in task["comparisons"])
        assert served["why"] in task["notes"][0]
        assert len(task["tried"]) == len(served["tried"]) > 0
    # Of the week held out before the cut, which the towers of the validation fit do not know.
    assert f", on {first_day.day - dt.timedelta(days=7)} up to {day}" in served["why"]
    assert served["num_users"] >= 20
    table, page = ((root / "reports" / day / name).read_text() for name in ("table.txt", "report.html"))
    assert served["why"].split(";")[0] in " ".join(table.split())
    assert "What was tried to choose what is served" in page
    for arm in arms:
        assert arm in table
        assert arm in page
    quarantine = pq.read_table(root / "tables" / "quarantine" / "events.parquet").to_pylist()
    assert [(row["reason"], row["source_row"]) for row in quarantine] == [("null_id", 6)]


def test_the_learned_lists_follow_the_tastes(first_day: Any) -> None:
    report = json.loads((first_day.root / "reports" / str(first_day.day) / "report.json").read_text())
    new = {arm["name"]: arm["metrics"]["recall@20"]["mean"] for arm in report["tasks"][1]["arms"]}
    # Half of the catalogue is of the other taste, so that popularity wastes half of its places.
    assert new["two-tower"] > 1.2 * new["popularity, 28 days"]


def test_the_same_seed_gives_the_same_bundle_in_another_folder(two_days: TwoDays, elsewhere: Any) -> None:
    assert elsewhere.ran.returncode == 0, elsewhere.ran.stderr
    assert (elsewhere.root / "bundles" / "current").readlink().name == two_days.published


def test_a_second_run_of_the_same_day_finds_every_step_unchanged(two_days: TwoDays) -> None:
    assert (two_days.repeated.returncode, two_days.repeated.stderr) == (0, "")
    lines = lines_of(two_days.repeated.stdout)
    assert [lines[name].split(":")[0] for name in STEPS] == ["unchanged"] * len(STEPS)


def test_the_next_day_joins_the_new_day_only(two_days: TwoDays) -> None:
    second = two_days.second
    lines = lines_of(second.ran.stdout)
    assert lines["ingest"].startswith("unchanged")
    assert lines["features"].startswith("1 days of snapshots;")
    assert "joined for 1 new days" in lines["features"]
    examples = State.of(second.root / "features" / "examples").files
    assert two_days.examples.files.items() <= examples.items()
    added = {Path(name).parts[0] for name in examples.keys() - two_days.examples.files.keys()}
    assert added == {str(second.day)}
    snapshots = State.of(second.root / "features" / "snapshots" / "user").files
    assert two_days.snapshots.files.items() <= snapshots.items()
    assert snapshots.keys() - two_days.snapshots.files.keys() == {f"{second.next_day}.parquet"}
    grown = pq.read_table(second.root / "features" / "snapshots" / "user" / f"{second.next_day}.parquet")
    assert {str(moment)[:10] for moment in grown.column("event_timestamp").to_pylist()} == {str(second.next_day)}


def test_the_next_day_publishes_its_bundle_and_leaves_the_old_one_alone(two_days: TwoDays) -> None:
    bundles = two_days.second.root / "bundles"
    published = (bundles / "current").readlink().name
    assert published.startswith(f"{two_days.second.next_day}-")
    bundle = Bundle.open(bundles / "current")
    assert bundle.version == published
    assert bundle.manifest.facts.as_of == two_days.second.next_day
    now = State.of(bundles).files
    moved_on = ("current", "published.jsonl")
    old = {name: stat for name, stat in two_days.bundles.files.items() if not name.startswith(moved_on)}
    assert old
    assert old.items() <= now.items()
    assert Bundle.open(bundles / two_days.published).manifest.facts.as_of == two_days.first.day


def recommend(shop: Any, *flags: str) -> Any:
    ran = shop.do("recommend", "--json", *flags)
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


def test_the_shell_answers_with_names_of_the_users_own_taste(two_days: TwoDays) -> None:
    users = [flag for user in USERS for flag in ("--user", user)]
    found = recommend(two_days.second, *users, "--retriever", "two_tower", "-k", "10", "--exclude-bought")
    assert [answer["user_id"] for answer in found["answers"]] == list(USERS)
    for answer, taste in zip(found["answers"], ("fruit", "tool") * 2, strict=True):
        assert len({item["item_id"] for item in answer["items"]}) == 10
        assert sum(item["category"] == taste for item in answer["items"]) >= 7
        for item in answer["items"]:
            number = int(item["item_id"][1:])
            assert item["item_name"] == (None if number == 119 else f"{item['category']} number {number}")


@pytest.fixture(scope="module")
def bought(two_days: TwoDays) -> dict[str, set[str]]:
    """What each user bought before the second day, from the raw orders."""
    orders = pd.concat(pd.read_csv(path) for path in (two_days.second.config.parent / "orders").glob("*.csv"))
    known = orders[orders.ordered_at < seconds_of(two_days.second.next_day) * 1000]
    return known.groupby("customer").article.agg(set).to_dict()


@dataclass(frozen=True)
class Server:
    """A server under way."""

    url: str
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def server(two_days: TwoDays) -> Iterator[Server]:
    """`twinspire serve` on a free port."""
    command = [sys.executable, "-m", "twinspire", *two_days.second.command("serve", "--port", "0")]
    with forking.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line + process.communicate()[1]
        yield Server(line.split()[-1], process)
        process.kill()


def test_the_server_gives_the_answer_of_the_shell(two_days: TwoDays, server: Server) -> None:
    asked = {"user_ids": [*USERS, "stranger"], "k": 7}
    response = httpx.post(f"{server.url}/v1/recommend", json=asked)
    assert response.status_code == 200
    users = [flag for user in asked["user_ids"] for flag in ("--user", user)]  # type: ignore[attr-defined]
    shell = recommend(two_days.second, *users, "-k", "7")
    answer = response.json()
    heads = [tuple(result.pop(name) for name in ("arm", "bundle_version", "retriever")) for result in answer["results"]]
    assert heads == [("default", shell["bundle_version"], shell["retriever"])] * len(heads)
    assert answer["results"] == shell["answers"]
    assert answer["results"][-1]["unknown_user"]
    assert answer["results"][-1]["fallback"] == "popularity"


@pytest.mark.parametrize("retriever", ["two_tower", "popularity", "fused"])
def test_bought_items_are_left_out_where_asked(server: Server, bought: dict[str, set[str]], retriever: str) -> None:
    asked = {"user_ids": list(USERS), "k": 90, "retriever": retriever}
    with_known, without_known = (
        httpx.post(f"{server.url}/v1/recommend", json={**asked, "exclude_bought": exclude}).json()["results"]
        for exclude in (False, True)
    )
    for user, all_items, new_items in zip(USERS, with_known, without_known, strict=True):
        assert {item["item_id"] for item in all_items["items"]} & bought[user]
        assert not {item["item_id"] for item in new_items["items"]} & bought[user]
        assert len(new_items["items"]) == min(90, 120 - len(bought[user]))


def test_the_server_stops_on_sigterm(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    output, errors = server.process.communicate(timeout=30)
    assert (output, errors) == ("", "")


class Spy:
    """A retriever that keeps the vectors that serving computed."""

    needs_embeddings, needs_tokens, finds_all, fills_up = True, False, False, True

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        self.embeddings = users.query_embeddings
        return padding(len(users), k)


def test_training_time_batch_and_served_vectors_of_users_are_equal(two_days: TwoDays) -> None:
    shop = two_days.second
    config = load(shop.config, [f"as_of={shop.next_day}"])
    paths = RunPaths(shop.root, shop.next_day)
    recommender = open_recommender(pick(ServeSections, config), paths)
    ids = recommender.bundle.encoder.user_ids.ids(np.arange(1, len(recommender.bundle.encoder.user_ids)))
    spy = Spy()
    recommender.retrievers["spy"] = spy
    recommender.recommend(ids, k=1, retriever="spy")
    assert spy.embeddings is not None
    np.testing.assert_allclose(np.linalg.norm(spy.embeddings, axis=1), 1, atol=1e-5)

    keys = pd.DataFrame({"user_id": ids, "event_timestamp": midnight(shop.next_day)})
    joined = Store.open(paths.features).join("user", keys)
    encoded = recommender.bundle.encoder.encode_users(joined, as_of_seconds=moments_of(joined))
    np.testing.assert_allclose(spy.embeddings, recommender.bundle.user_tower.embed(encoded), atol=1e-5)
    np.testing.assert_allclose(spy.embeddings, read_vectors(paths.vectors / "users"), atol=1e-5)
    np.testing.assert_array_equal(recommender.bundle.item_vectors, read_vectors(paths.vectors / "items"))


@pytest.fixture
def copied(two_days: TwoDays, tmp_path: Path) -> Any:
    """A copy of the shop's second day, to be broken."""
    for part in ("bundles", "features/online"):
        shutil.copytree(two_days.second.root / part, tmp_path / "corner_shop" / part, symlinks=True)
    return replace(two_days.second, runs=tmp_path)


def test_a_corrupted_bundle_is_refused_in_one_line(copied: Any) -> None:
    vectors = (copied.root / "bundles" / "current").resolve() / "item_vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    ran = copied.do("serve", "--port", "0")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {vectors}: SHA-256 is ")
    assert "copy the bundle again" in ran.stderr


def test_going_back_a_day_publishes_it_again_with_the_features_that_it_had(first_day: Any, tmp_path: Path) -> None:
    shop = first_day.copy(tmp_path / "runs")
    pointer = shop.root / "bundles" / "current"
    published = pointer.readlink().name
    # As a run of the next day leaves it.
    pointer.unlink()
    pointer.symlink_to(f"{shop.next_day}-00000000")
    plan = lines_of(shop.do("run", "--dry-run").stdout)
    assert {name for name in STEPS if plan[name].startswith("would run")} == {"publish"}
    ran = shop.do("bundle")
    assert ran.returncode == 0, ran.stderr
    assert pointer.readlink().name == published


def answered(shop: Any) -> list[dict[str, Any]]:
    """Lists of some users, by two towers, which read all features."""
    found = []
    for user in ("c00", "c07", "c31"):
        ran = shop.do("recommend", "--user", user, "--retriever", "two_tower", "--json", "--k", "30")
        assert ran.returncode == 0, ran.stderr
        found.append(json.loads(ran.stdout)["answers"])
    return found


def test_features_of_a_night_that_publishes_nothing_are_not_served(first_day: Any, tmp_path: Path) -> None:
    """Neither those of another day, nor those without a column, whose night has stopped after its features."""
    shop = first_day.copy(tmp_path / "runs")
    before = answered(shop)
    assert "no_features" not in str(before)
    narrow = ["--set", "dataset.user_columns={country: categorical, about: text}"]
    for flags in (["--as-of", str(shop.next_day)], narrow):
        for step in ("ingest", "features"):
            ran = shop.do(step, *flags, "--now", "2024-03-01")
            assert ran.returncode == 0, ran.stderr
        assert answered(shop) == before
    assert len(list((shop.root / "features" / "online").iterdir())) == 3


def test_a_dry_run_prints_the_plan_and_writes_nothing(two_days: TwoDays) -> None:
    shop = two_days.second
    before = State.of(shop.runs)
    override = "training.epochs=3"
    ran = shop.do("run", "--dry-run", "--as-of", shop.next_day, "--set", override)
    assert (ran.returncode, ran.stderr) == (0, "")
    plan, resolved = ran.stdout.split("resolved configuration:")
    states = [line.split(maxsplit=1)[1].split(";")[0] for line in plan.splitlines() if line]
    assert states == ["unchanged, would be skipped"] * 2 + ["would run"] * 6
    assert yaml.safe_load(resolved) == yaml.safe_load(dump(load(shop.config, [override, f"as_of={shop.next_day}"])))
    assert State.of(shop.runs) == before


def test_a_step_out_of_order_names_the_one_before_it(two_days: TwoDays) -> None:
    for command, before in (("embed", "train"), ("bundle", "index")):
        ran = two_days.second.do(command, "--set", "training.epochs=3")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.startswith(
            f"error: step '{before}' is not done for this configuration and day; run `twinspire"
        )
