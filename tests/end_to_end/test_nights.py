"""Nights of a growing shop, as a scheduler calls them: warm starts, full retrains and what is logged of them."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.encoding import Encoder
from serving.bundles.bundle import Bundle
from serving.bundles.manifest import read_manifest
from tests import forking

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(900)]

ONE_DAY = dt.timedelta(days=1)
FIRST = dt.date(2024, 2, 4)
SECOND, THIRD, FOURTH = (FIRST + number * ONE_DAY for number in (1, 2, 3))
NEW_CUSTOMER, NEW_ARTICLE = "c60", "a120"
STEPS = ["ingest", "features", "train", "embed", "index", "bundle", "gates", "publish"]
REFUSE = ("--set", "gates.max_bundle_bytes=1")


@dataclass(frozen=True)
class Nights:
    """What nights left behind, and what they printed.

    Attributes:
        shop: After three nights, orders arriving before each, and the third one again.
        filled: After the first night, and the others by one backfill.
        refused: A gate refused the second; before the third an order came late.
        full: Three nights after the first, all of them full retrains.
        ran: What was printed.
        served: What the pointer named after some of them.
    """

    shop: Any
    filled: Any
    refused: Any
    full: Any
    ran: dict[str, Any] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def nights(first_night: Any, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Two lines of nights that know nothing of each other."""
    folder = tmp_path_factory.mktemp("nights")
    shop = first_night.elsewhere(folder / "shop")
    others = [first_night.elsewhere(folder / name) for name in ("refused", "full")]
    found = Nights(shop, shop.copy_runs(folder / "filled"), *others)

    def as_days_come() -> None:
        for name, day in (("second", SECOND), ("third", THIRD)):
            shop.arrive(day)
            found.ran[name] = shop.night(day)
        found.ran["again"] = shop.night(THIRD)
        found.ran["backfill"] = found.filled.do("backfill", "--from", SECOND, "--to", THIRD, "--now", "2024-03-01")

    def otherwise() -> None:
        refused, full = others
        refused.arrive(THIRD)
        found.ran["refused"] = refused.night(SECOND, *REFUSE)
        found.served["refused"] = served(refused)
        refused.order_late(FIRST - ONE_DAY)
        found.ran["after a refusal"] = refused.night(THIRD)
        full.arrive(FOURTH)
        found.ran["full"] = full.night(SECOND, "--full")
        found.ran["often"] = full.night(THIRD, "--set", "daily.full_every_days=1")
        found.ran["changed"] = full.night(FOURTH, "--set", "towers.embedding_dim=6")

    as_days_come()
    otherwise()
    return found


def served(shop: Any) -> str:
    """What the pointer names."""
    return str((shop.root / "bundles" / "current").readlink())


def outcome(shop: Any, day: dt.date, step: str) -> str:
    """The outcome that a step of a day printed."""
    return str(json.loads((shop.root / "steps" / str(day) / f"{step}.json").read_text())["outcome"])


def lineage(shop: Any, day: dt.date) -> dict[str, Any]:
    """How a day's fit came to be."""
    found: dict[str, Any] = json.loads((shop.root / "models" / str(day) / "lineage.json").read_text())
    return found


def parent_of(shop: Any, day: dt.date) -> str | None:
    """What the manifest of a day's bundle names as its parent."""
    return read_manifest(shop.root / "bundles" / shop.version(day)).facts.parent


def same_files(one: Path, other: Path) -> bool:
    """Whether two state files hold the same arrays."""
    with np.load(one) as first, np.load(other) as second:
        return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_three_nights_are_published_one_on_the_other(nights: Nights) -> None:
    for name, day, before in (("second", SECOND, FIRST), ("third", THIRD, SECOND)):
        ran = nights.ran[name]
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        assert ran.stdout.splitlines()[0] == f"{day} warm start from {before}"
        assert [line.split()[0] for line in ran.stdout.splitlines() if line.split()[0] in STEPS] == STEPS
        assert parent_of(nights.shop, day) == nights.shop.version(before)
    assert parent_of(nights.shop, FIRST) is None
    assert served(nights.shop) == nights.shop.version(THIRD)
    assert lineage(nights.shop, THIRD) == {
        "parent": str(SECOND), "is_warm_start": True, "full_fit": str(FIRST), "held_out_share": 0.5,
        "epochs": {"towers": 1},
        "sparcode_epochs": None,
        "factor_weight": None,
        "factor_powers": None,
    }  # fmt: skip


def test_a_night_fits_the_new_day_and_the_one_before_it_again(nights: Nights) -> None:
    assert outcome(nights.shop, FIRST, "train").startswith("8 days, 1 epochs: ")
    assert outcome(nights.shop, THIRD, "train").startswith(f"2 days, 1 epochs, warm start from {SECOND}: ")
    assert "examples joined for 1 new days" in outcome(nights.shop, THIRD, "features")
    taken = []
    for day in (FIRST, SECOND):
        with np.load(nights.shop.root / "models" / str(day) / "state" / "towers.npz") as state:
            taken.append(int(state["@iterations"]))
    examples = nights.shop.root / "features" / "examples"
    num_new = sum(pq.read_metadata(examples / str(day) / "events.parquet").num_rows for day in (FIRST - ONE_DAY, FIRST))
    assert 0 < taken[1] - taken[0] <= -(-num_new // 64)


def test_new_users_and_items_get_rows_and_are_recommended(nights: Nights) -> None:
    root = nights.shop.root / "models"
    before, after = (Encoder.load(root / str(day) / "encoder") for day in (FIRST, SECOND))
    assert before.user_ids.rows([NEW_CUSTOMER])[0] == before.item_ids.rows([NEW_ARTICLE])[0] == 0
    assert after.user_ids.rows([NEW_CUSTOMER])[0] > 0
    assert after.item_ids.rows([NEW_ARTICLE])[0] > 0
    ran = nights.shop.do("recommend", "--user", NEW_CUSTOMER, "--retriever", "two_tower", "-k", 61, "--json")
    assert ran.returncode == 0, ran.stderr
    [answer] = json.loads(ran.stdout)["answers"]
    assert (answer["unknown_user"], answer["fallback"]) == (False, None)
    assert NEW_ARTICLE in [item["item_id"] for item in answer["items"]]


def test_the_served_fit_is_evaluated_on_the_day_after_it(nights: Nights) -> None:
    for day in (SECOND, THIRD):
        found = json.loads((nights.shop.root / "models" / str(day) / "held_out.json").read_text())
        assert found["k"] == 20
        assert 0 < found["next_day"] <= 1
        assert found["num_users"] > found["num_held_out"]


def test_a_night_chooses_what_is_served_by_the_day_after_the_fit_before_it(nights: Nights) -> None:
    made = {}
    for day in (FIRST, SECOND, THIRD):
        served_by_default = read_manifest(nights.shop.root / "bundles" / nights.shop.version(day)).facts.served
        assert served_by_default is not None
        assert f"serves {served_by_default}; " in outcome(nights.shop, day, "bundle")
        made[day] = served_by_default
    for before, day in ((FIRST, SECOND), (SECOND, THIRD)):
        assert f"{before} up to {day}" in made[day].why
        # What another night than the one before would serve is told.
        is_told = f"; before it was {made[before]}" in outcome(nights.shop, day, "bundle")
        assert is_told == (str(made[before]) != str(made[day]))


def test_status_shows_the_served_bundle_and_the_outcomes_of_the_nights(nights: Nights) -> None:
    ran = nights.shop.do("status", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    status = json.loads(ran.stdout)
    assert (status["served"], status["at_work"]) == (nights.shop.version(THIRD), None)
    assert status["last_day_with_events"] == str(SECOND)
    assert [night["day"] for night in status["nights"]] == [str(THIRD), str(SECOND), str(FIRST)]
    assert [night["parent"] for night in status["nights"]] == [str(SECOND), str(FIRST), None]
    assert {night["outcome"] for night in status["nights"]} == {"published"}
    second = status["nights"][1]
    assert [step["name"] for step in second["steps"]] == STEPS
    assert all(step["done_now"] and step["peak_memory_bytes"] > 1_000_000 for step in second["steps"])
    held_out = nights.shop.root / "models" / str(SECOND) / "held_out.json"
    assert second["recall"] == json.loads(held_out.read_text())
    # The shop is too small for the gate, and everybody who looks is told.
    why = status["nights"][0]["not_checked"]["held_out_recall"]
    assert "users held out met something new, expected at least 100" in why
    shown = nights.shop.do("status").stdout
    assert f"NOT CHECKED on {THIRD}, and on 3 of 3 nights: held_out_recall: " in " ".join(shown.split())
    assert "NOT CHECKED held_out_recall: " in nights.ran["third"].stdout
    assert f"served            {nights.shop.version(THIRD)}" in shown
    assert "at work           nothing" in shown


def test_each_night_leaves_a_log_with_an_object_a_line(nights: Nights) -> None:
    log = (nights.shop.root / "nights" / f"{SECOND}.log").read_text().splitlines()
    events = [json.loads(line) for line in log]
    assert [line["step"] for line in events if line["event"] == "step ends"] == STEPS
    assert events[-1]["outcome"] == "published"


def test_the_same_night_again_does_nothing(nights: Nights) -> None:
    ran = nights.ran["again"]
    assert (ran.returncode, ran.stderr) == (0, "")
    steps = [line.split()[:2] for line in ran.stdout.splitlines()[1:] if not line.startswith("NOT CHECKED")]
    assert steps == [[name, "unchanged:"] for name in STEPS]
    folders = [path.name for path in (nights.shop.root / "bundles").glob("2024-*")]
    assert sorted(folders) == sorted(nights.shop.version(day) for day in (FIRST, SECOND, THIRD))


def test_a_backfill_makes_the_bundles_of_single_nights_although_later_orders_are_there(nights: Nights) -> None:
    ran = nights.ran["backfill"]
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    for day in (SECOND, THIRD):
        assert nights.filled.version(day) == nights.shop.version(day)
        assert parent_of(nights.filled, day) == parent_of(nights.shop, day)
        state = Path("models", str(day), "state", "towers.npz")
        assert same_files(nights.filled.root / state, nights.shop.root / state)


def test_a_backfill_that_ends_before_it_begins_is_refused(nights: Nights) -> None:
    ran = nights.shop.do("backfill", "--from", THIRD, "--to", SECOND)
    assert (ran.returncode, ran.stderr) == (1, f"error: --from is {THIRD}, after --to, {SECOND}; exchange them\n")


def test_a_refused_bundle_is_not_served_and_the_next_warm_start_is_from_the_published_one(
    nights: Nights,
) -> None:
    ran, shop = nights.ran["refused"], nights.refused
    assert ran.returncode == 3
    assert ran.stderr == "not published: gate checks failed; the previous bundle stays live\n"
    assert "gates.max_bundle_bytes" in ran.stdout
    assert nights.served["refused"] == shop.version(FIRST)
    night = json.loads((shop.root / "nights" / f"{SECOND}.json").read_text())
    assert (night["outcome"], night["bundle"]) == ("refused", shop.version(SECOND))
    after = nights.ran["after a refusal"]
    assert after.returncode == 0, after.stderr
    assert after.stdout.splitlines()[0] == f"{THIRD} warm start from {FIRST}"
    assert outcome(shop, THIRD, "train").startswith(f"3 days, 1 epochs, warm start from {FIRST}: ")
    assert (served(shop), parent_of(shop, THIRD)) == (shop.version(THIRD), shop.version(FIRST))


def test_a_late_order_leaves_the_previous_fit_events_to_be_evaluated_on(nights: Nights) -> None:
    assert f"{FIRST - ONE_DAY} changed (1 event more): " in outcome(nights.refused, THIRD, "features")
    held_out = nights.refused.root / "models" / str(THIRD) / "held_out.json"
    assert json.loads(held_out.read_text())["next_day"] > 0


@pytest.mark.parametrize(
    ("name", "day", "why"),
    [
        ("full", SECOND, "asked for"),
        ("often", THIRD, f"the last full fit, of {SECOND}, is 1 days old"),
        ("changed", FOURTH, f"towers changed since {THIRD}"),
    ],
)
def test_a_full_retrain_names_its_reason_and_is_compared_with_the_previous_night(
    nights: Nights, name: str, day: dt.date, why: str
) -> None:
    ran = nights.ran[name]
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    assert ran.stdout.splitlines()[0] == f"{day} full retrain: {why}"
    assert outcome(nights.full, day, "train").startswith("8 days, 1 epochs: ")
    assert f"since {day - ONE_DAY}" in outcome(nights.full, day, "train")
    found = lineage(nights.full, day)
    assert (found["parent"], found["is_warm_start"], found["full_fit"]) == (str(day - ONE_DAY), False, str(day))
    Bundle.open(nights.full.root / "bundles" / nights.full.version(day))


HOLDS = """
import datetime as dt, sys
from pathlib import Path
from artefacts.locks import only_run

with only_run(Path(sys.argv[1]), command="twinspire daily --date 2024-02-07", now=dt.datetime(2024, 3, 1)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("command", ["daily", "run"])
def test_a_run_during_another_one_ends_with_4_and_names_it(nights: Nights, command: str) -> None:
    holder = forking.Popen(
        [sys.executable, "-c", HOLDS, str(nights.shop.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        ran = nights.shop.do(command)
        at_work = json.loads(nights.shop.do("status", "--json").stdout)["at_work"]
        holder.kill()
    assert ran.returncode == 4
    assert ran.stdout == ""
    assert ran.stderr.startswith(
        f"error: {nights.shop.root}: twinspire daily --date 2024-02-07 is at work here (process {holder.pid} on "
    )
    assert "Traceback" not in ran.stderr
    assert at_work["process"] == holder.pid
    # Killed: the lock is gone with it.
    assert json.loads(nights.shop.do("status", "--json").stdout)["at_work"] is None
