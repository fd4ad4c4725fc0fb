"""Do MovieLens files go through ingest, features and train, each a command of its own? Made-up files, 100k layout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

CONFIG = Path(__file__).parents[2] / "configs" / "movielens.yaml"
NUM_USERS, NUM_ITEMS, NUM_RATINGS = 40, 60, 1200
# 1998-03-01, and the month before the configuration's cut and two days after it.
FIRST_SECONDS, NUM_DAYS = 888_710_400, 33
SMALL = {
    "features.example_days": 15,
    "training.example_days": 15,
    "training.epochs": 1,
    "training.batch_size": 64,
    "training.num_uniform": 8,
    "towers.embedding_dim": 4,
    "towers.factor_dim": 0,
    "evaluation.ks": [5],
}


def write_ratings(folder: Path) -> None:
    """`u.data`, `u.user` and `u.item` as GroupLens lays them out, with ratings by chance."""
    rng = np.random.default_rng(11)
    pairs = rng.choice(NUM_USERS * NUM_ITEMS, NUM_RATINGS, replace=False)
    with (folder / "u.data").open("w", encoding="latin-1") as file:
        for pair in pairs:
            moment = FIRST_SECONDS + rng.integers(NUM_DAYS * 86_400)
            file.write(f"{pair // NUM_ITEMS + 1}\t{pair % NUM_ITEMS + 1}\t{rng.integers(1, 6)}\t{moment}\n")
    with (folder / "u.user").open("w", encoding="latin-1") as file:
        for user in range(1, NUM_USERS + 1):
            file.write(f"{user}|{20 + user}|{'MF'[user % 2]}|student|{10_000 + user}\n")
    with (folder / "u.item").open("w", encoding="latin-1") as file:
        for item in range(1, NUM_ITEMS + 1):
            genres = "|".join(str(int(number == item % 19)) for number in range(19))
            file.write(
                f"{item}|Caf\xe9 {item}, The ({1950 + item % 48})|01-Jan-1995||http://example.org/{item}|{genres}\n"
            )


def test_ratings_become_tables_features_and_towers(tmp_path: Path) -> None:
    ratings = tmp_path / "ml-100k"
    ratings.mkdir()
    write_ratings(ratings)
    overrides = {"ingest.source.path": str(ratings), **SMALL}
    flags = [
        "--config",
        str(CONFIG),
        *(part for key, value in overrides.items() for part in ("--set", f"{key}={value}")),
    ]
    outcomes = {}
    for step in ("ingest", "features", "train"):
        command = [sys.executable, "-m", "twinspire", step, *flags]
        ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, "")
        outcomes[step] = ran.stdout
    manifest = json.loads((tmp_path / "runs" / "movielens" / "tables" / "manifest.json").read_text())
    assert manifest["rows_read"] == NUM_RATINGS
    assert manifest["rows_kept"] + manifest["filtered"]["below_min_rating"] == NUM_RATINGS
    assert "joined for 15 new days" in outcomes["features"]
    assert "15 days, 1 epochs: recall@5 of new items" in outcomes["train"]
    assert (tmp_path / "runs" / "movielens" / "models" / "1998-04-01" / "item_tower.tflite").is_file()
