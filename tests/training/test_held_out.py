"""As many users are held out of a fit as its comparison with the earlier fit needs, and never more than half."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.statistics import users_needed
from features.ids import IdMap
from training.held_out import HELD_OUT, HeldOut

SINCE = dt.date(2024, 2, 4)
MIDNIGHT = int(dt.datetime(2024, 2, 4, tzinfo=dt.UTC).timestamp())


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    """Of 8,685 users, the first 1,000 have met something new since the earlier fit, the others something before it."""
    users = [f"u{user}" for user in range(8685)]
    first = [MIDNIGHT + 60 if user < 1000 else MIDNIGHT - 60 for user in range(8685)]
    table = pa.table({"user_id": users, "item_id": ["i0"] * len(users), "first_seconds": first})
    pq.write_table(table, tmp_path / "pairs.parquet")
    encoder = SimpleNamespace(user_ids=IdMap(users), item_ids=IdMap(["i0"]))
    parent = SimpleNamespace(as_of=SINCE, model=tmp_path, encoder=encoder)
    return SimpleNamespace(parent=parent, paths=SimpleNamespace(pairs=tmp_path / "pairs.parquet"), users=users)


def num_compared(shop: Any, held: HeldOut, num_active: int = 1000) -> int:
    return int(held.of(np.array(shop.users[:num_active], dtype=object)).sum())


def write_comparison(shop: Any, parent: Any, fit: Any) -> None:
    with (shop.parent.model / HELD_OUT).open("wb") as file:
        np.savez(file, parent=parent, fit=fit)


def test_as_many_are_held_out_as_the_spread_of_the_earlier_comparison_asks_for(shop: Any) -> None:
    rng = np.random.default_rng(1)
    parent = rng.uniform(0, 0.4, 300)
    fit = parent + rng.normal(0, 0.15, 300)
    write_comparison(shop, parent, fit)
    needed = users_needed(fit - parent, 0.2 * parent.mean())
    assert 100 < needed < 300
    held = HeldOut.with_power(shop.parent, shop.paths, fall=0.2)
    # Users of one hash value are held out together.
    assert needed <= num_compared(shop, held) <= needed + 3
    assert num_compared(shop, HeldOut.with_power(shop.parent, shop.paths, fall=0.19)) > num_compared(shop, held)


def test_the_gate_gets_its_users_where_the_fits_hardly_differ(shop: Any) -> None:
    parent = np.random.default_rng(2).uniform(0.2, 0.4, 50)
    write_comparison(shop, parent, parent + np.linspace(-0.001, 0.001, 50))
    assert 100 <= num_compared(shop, HeldOut.with_power(shop.parent, shop.paths, fall=0.2)) <= 103


def test_without_an_earlier_comparison_the_usual_number_is_held_out(shop: Any) -> None:
    assert 400 <= num_compared(shop, HeldOut.with_power(shop.parent, shop.paths, fall=0.2)) <= 404
    write_comparison(shop, np.zeros(60), np.zeros(60))
    assert 400 <= num_compared(shop, HeldOut.with_power(shop.parent, shop.paths, fall=0.2)) <= 404


def test_at_most_half_of_the_users_are_held_out(shop: Any) -> None:
    parent = np.random.default_rng(3).uniform(0, 0.02, 60)
    write_comparison(shop, parent, parent[::-1] + np.random.default_rng(4).normal(0, 0.2, 60))
    held = HeldOut.with_power(shop.parent, shop.paths, fall=0.01)
    assert held.share == 0.5
    assert 430 < num_compared(shop, held) < 570
