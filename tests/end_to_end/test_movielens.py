"""MovieLens files pass through ingest, features and train, one command each: made-up files in the 100k layout."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]


def test_ratings_become_tables_features_and_towers(ratings: Any) -> None:
    for ran in ratings.ran.values():
        assert (ran.returncode, ran.stderr) == (0, "")
    manifest = json.loads((ratings.root / "tables" / "manifest.json").read_text())
    assert manifest["rows_read"] == 1200
    assert manifest["rows_kept"] + manifest["filtered"]["below_min_rating"] == 1200
    assert "joined for 15 new days" in ratings.ran["features"].stdout
    chosen = "15 days, 1 epochs: validation chose epoch 1 of 1 tried, recall@5 of new items"
    assert chosen in ratings.ran["train"].stdout
    assert (ratings.root / "models" / "1998-04-01" / "item_tower.tflite").is_file()
