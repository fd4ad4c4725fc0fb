"""Every row of another system's log is either used or counted with its reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.off_policy.logs import FeedbackRows, read_logged_feedback

USERS, ITEMS = ["ann", "bob", "007"], ["apple", "bread", "12"]
LOG = """user_id,item_id,reward,propensity
ann,bread,1,0.5
bob,apple,0.25,1
,apple,1,0.5
eve,apple,1,0.5
ann,drill,1,0.5
ann,apple,much,0.5
ann,apple,inf,0.5
ann,apple,1,0
ann,apple,1,1.5
ann,apple,1,
007,12,-2,1e-3
"""


def read(path: Path) -> FeedbackRows:
    return read_logged_feedback(path, user_ids=USERS, item_ids=ITEMS)


def test_good_rows_are_read_and_each_bad_one_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    found = read(tmp_path / "log.csv")
    assert found.users.tolist() == [0, 1, 2]
    assert found.items.tolist() == [1, 0, 2]
    assert found.rewards.tolist() == [1, 0.25, -2]
    assert found.propensities.tolist() == [0.5, 1, 0.001]
    assert found.moments is None
    assert found.num_read == 11
    assert {problem.kind: (problem.count, problem.rows) for problem in found.problems} == {
        "user, item, reward or propensity is missing": (2, (3, 10)),
        "reward is no number": (2, (6, 7)),
        "propensity is not above 0 up to 1": (2, (8, 9)),
        "unknown user": (1, (4,)),
        "unknown item": (1, (5,)),
    }
    assert len(found.users) + sum(problem.count for problem in found.problems) == found.num_read


def test_parquet_is_read_alike_under_the_short_names_and_with_moments(tmp_path: Path) -> None:
    table = {
        "user": ["ann", "bob", "bob"],
        "item": ["apple", "bread", "apple"],
        "reward": [1.0, float("nan"), 3.0],
        "propensity": [0.5, 0.5, 0.25],
        "timestamp": pa.array([1_700_000_000_000_000, 0, None], pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    found = read(tmp_path / "log.parquet")
    assert (found.users.tolist(), found.items.tolist()) == ([0], [0])
    assert found.moments is not None
    assert found.moments.tolist() == [1_700_000_000_000_000]
    assert [(problem.kind, problem.rows) for problem in found.problems] == [
        ("reward is no number", (2,)),
        ("timestamp is no moment", (3,)),
    ]


def test_no_more_than_five_rows_of_a_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,reward,propensity\n" + "eve,apple,1,0.5\n" * 9)
    (problem,) = read(tmp_path / "log.csv").problems
    assert (problem.kind, problem.count, problem.rows) == ("unknown user", 9, (1, 2, 3, 4, 5))


def test_a_log_without_propensities_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,reward\nann,apple,1\n")
    with pytest.raises(ValueError, match=r"log\.csv: has the columns user_id, item_id, reward; expected propensity"):
        read(tmp_path / "log.csv")
