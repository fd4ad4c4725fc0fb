"""From a log of what servers showed follow the rewards of each arm, and how much of an arm the log covers."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from artefacts.paths import RunPaths
from evaluation.folds import Folds, make_folds
from evaluation.off_policy.estimate import Log, estimate, read_log
from evaluation.report import NEW_TO_THE_USER, Problem
from evaluation.settings import Settings
from serving.exposures.files import Exposure, to_table, write_exposures
from serving.retrieval.ranking import Rows

CUT = dt.date(2024, 1, 8)
SHARES = {"default": 1.0}
SETTINGS = Settings(NEW_TO_THE_USER, (2,), "recall@2", num_samples=100, seed=1)


@pytest.fixture
def folds(paths: RunPaths) -> Folds:
    return make_folds(paths.tables, item_category=None, protocol="after-cut", cuts=[CUT], window_days=3)


def test_reads_the_lists_of_our_servers_with_the_purchases_after_them(paths: RunPaths, folds: Folds) -> None:
    shown = [
        Exposure(_seconds(8, 7), "bob", "default", "2024-01-08-00000000", "fused", 2, (), ("nails", "apple")),
        Exposure(_seconds(8, 8), "eve", "default", "2024-01-08-00000000", "fused", 2, (), ("nails",)),
        Exposure(_seconds(8, 9), "ann", "gone", "2024-01-08-00000000", "fused", 2, (), ("nails",)),
    ]
    write_exposures(to_table(shown), paths.exposures / "day=2024-01-08" / "1-1.parquet")
    log = read_log(paths.exposures, SHARES, paths.tables, folds, reward_days=7)
    users = folds.folds[0].split.user_ids
    assert [users[user] for user in log.users] == ["bob", "bob"]
    assert [folds.item_ids[item] for item in log.items] == ["nails", "apple"]
    # bob bought nails at noon; the one arm has all users, and either place either item.
    assert log.rewards.tolist() == [1, 0]
    assert log.propensities.tolist() == [1 / 2, 1 / 2]
    assert log.problems == (
        Problem("list of arm gone, which has no share now", 1),
        Problem("list of an unknown user", 1),
    )


def test_reads_the_log_of_another_system(paths: RunPaths, folds: Folds, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("user_id,item_id,reward,propensity\nann,nails,1,.5\nann,hammer,1,.5\n")
    log = read_log(file, SHARES, paths.tables, folds, reward_days=7)
    assert log.propensities.tolist() == [0.5]
    assert sum(problem.count for problem in log.problems) == 1


def _seconds(day: int, hour: int) -> float:
    return dt.datetime(2024, 1, day, hour, tzinfo=dt.UTC).timestamp()


def test_estimates_are_near_the_reward_of_a_position() -> None:
    """40 items earn from 0 to 1; a log that shows any 4 of them at random evaluates fixed lists."""
    rng = np.random.default_rng(5)
    num_users, num_items, shown = 4000, 40, 4
    worth = np.linspace(0, 1, num_items)
    items = np.argsort(rng.random((num_users, num_items)), axis=1)[:, :shown]
    users = np.repeat(np.arange(num_users), shown)
    rewards = (rng.random(users.size) < worth[items.ravel()]).astype(float)
    log = Log(users, items.ravel(), rewards, np.full(users.size, 1 / num_items), ())
    best, worst = (np.tile(np.array(rows, np.int32), (num_users, 1)) for rows in ([39, 38], [0, 1]))
    found = estimate(log, [best, worst], ["best", "worst"], SETTINGS)
    values = {(row.letter, row.estimator): row.estimate for row in found.rows}
    for letter, truth in (("A", worth[38:].mean()), ("B", worth[:2].mean())):
        for estimator in ("IPS", "SNIPS", "doubly robust"):
            found_value = values[letter, estimator]
            assert found_value.low - 0.02 <= truth <= found_value.high + 0.02
    # Any place shows one of 40 items, so that four of them show an item of a list once in ten times.
    assert "arm A (best): the log has shown 10." in found.notes[0] or "the log has shown 9." in found.notes[0]


def test_a_log_without_users_gives_a_note_and_no_estimate(folds: Folds) -> None:
    nothing = Log(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), ())
    lists: Rows = np.zeros((len(folds.folds[0].split.user_ids), 2), np.int32)
    found = estimate(nothing, [lists], ["a"], SETTINGS)
    assert found.rows == ()
    assert found.notes == ("the log shows something to 0 of the users that are compared: no estimate",)
