"""Pairs of impressions, from a file of pairs and from what servers have logged."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.encoding import Encoder
from features.ids import IdMap
from features.numbers import numeric_names
from features.schema import Schema
from serving.exposures.files import Exposure, to_table, write_exposures
from training.data import training_data as module
from training.data.training_data import read_impressions
from training.negatives.known_positives import KnownPositives
from training.negatives.private import UserNegatives, draw_private, listed, mask_private
from training.negatives.source import Descriptions

CUT = dt.date(2024, 2, 1)
BEFORE = 1_706_745_599  # the second before


@pytest.fixture
def encoder() -> Encoder:
    """Users u1 to u3 and items i1 to i4 are the rows of their numbers."""
    return Encoder(
        schema=Schema(),
        user_ids=IdMap(["u1", "u2", "u3"]),
        item_ids=IdMap(["i1", "i2", "i3", "i4"]),
        vocabularies={},
        scaling={name: (0.0, 1.0) for tower in ("user", "item") for name in numeric_names(Schema(), tower)},
        history_length=2,
        text_length=2,
        text_buckets=4,
    )


def log(folder: Path, name: str, *lists: tuple[str, list[str]], moment: float = BEFORE) -> None:
    exposures = [Exposure(moment, user, "a", "v", "fused", 4, (), items) for user, items in lists]
    write_exposures(to_table(exposures), folder / f"day={exposures[0].day}" / name)


def pairs(path: Path, encoder: Encoder) -> list[tuple[int, int]]:
    users, items = read_impressions(path, encoder, before=CUT)
    assert users.dtype == items.dtype == np.int64
    return list(zip(users.tolist(), items.tolist(), strict=True))


@pytest.mark.parametrize("merge_pairs", [1, 4_000_000])
def test_exposures_give_each_pair_once_without_strangers_and_without_days_from_the_cut_on(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, merge_pairs: int
) -> None:
    monkeypatch.setattr(module, "MERGE_PAIRS", merge_pairs)
    log(tmp_path, "a-000000.parquet", ("u2", ["i4", "i1"]), ("u1", []), ("u1", ["i2", "i9", "i2"]))
    log(tmp_path, "a-000001.parquet", ("stranger", ["i1"]), ("u2", ["i3", "i4"]))
    log(tmp_path, "a-000002.parquet", ("u1", ["i1"]), moment=BEFORE - 3 * 86_400)
    log(tmp_path, "a-000003.parquet", ("u3", ["i1"]), moment=BEFORE + 1)
    assert pairs(tmp_path, encoder) == [(1, 1), (1, 2), (2, 1), (2, 3), (2, 4)]


def test_exposures_of_later_days_alone_give_nothing(tmp_path: Path, encoder: Encoder) -> None:
    log(tmp_path, "a-000000.parquet", ("u3", ["i1"]), moment=BEFORE + 1)
    assert pairs(tmp_path, encoder) == []


def test_a_file_of_pairs_gives_them_as_often_as_it_has_them(tmp_path: Path, encoder: Encoder) -> None:
    table = pa.table({"user_id": ["u2", "u1", "u2", "u0"], "item_id": ["i3", "i1", "i3", "i1"]})
    pq.write_table(table, tmp_path / "shown.parquet")
    assert pairs(tmp_path / "shown.parquet", encoder) == [(2, 3), (1, 1), (2, 3)]


def test_a_purchased_item_is_no_negative_of_its_buyer_although_it_was_shown(tmp_path: Path, encoder: Encoder) -> None:
    log(tmp_path, "a-000000.parquet", ("u1", ["i1", "i2", "i3"]), ("u2", ["i2"]))
    shown = UserNegatives.of(*read_impressions(tmp_path, encoder, before=CUT), num_user_rows=4)
    # u1 has met i2 (before the cut, or the phase would not know), and i1 in the row at hand.
    known = KnownPositives.of(np.array([1]), np.array([2]), num_user_rows=4)
    rng, users, own = np.random.default_rng(1), np.array([1, 2]), np.array([1, 4])
    descriptions = Descriptions(np.arange(1, 5), 4, num_item_rows=5, catalogue_size=4)
    drawn = draw_private([listed(shown, num=3)(descriptions, rng)], users, descriptions, rng=rng)
    assert drawn is not None
    shared = np.zeros((2, 2), dtype=bool)
    mask = mask_private(shared, drawn, users, own, known, in_batch=True)
    negatives = [set(drawn.items[row][~mask[row, 2:]].tolist()) for row in range(2)]
    assert negatives == [{3}, {2}]
