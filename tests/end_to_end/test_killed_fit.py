"""A training step that is killed resumes where it was, and gives what it would have given."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import forking

pytestmark = pytest.mark.end_to_end
KILLED = Path(__file__).with_name("killed_fit_for_tests.py")
# All that has a state of its own: what is dropped, estimated and queued, a weight that decays, codebooks.
SETTINGS = [
    "training.epochs=4", "training.patience=1", "training.checkpoint_every_minutes=0", "training.frequency=streaming",
    "training.negatives.queue_size=32", "towers.id_buckets=4", "towers.id_dropout=0.2", "towers.dual_augmented={}",
    "towers.counterpart={user_fields: [country], item_fields: [category], decay: 0.5}",
    "sparcode={parts: 2, codes: 8, hidden_units: 4, batch_size: 64, choose_epochs: false, epochs: 1}",
]  # fmt: skip
FLAGS = [flag for setting in SETTINGS for flag in ("--set", setting)]
# The fit that is killed, after how many of its steps, and what the next run says.
KILLS = [
    ("validation", 11, "validation resumes at epoch 2, step "),
    ("final", 7, "final resumes at epoch 1, step 7"),
    ("final-sparcode", 4, "final sparcode resumes at epoch 1, step 4"),
]


def made(shop: Any) -> dict[str, Any]:
    """Everything that the fit of the day left, and its outcome."""
    model = shop.root / "models" / str(shop.day)
    found: dict[str, Any] = {}
    for path in sorted(path for path in model.rglob("*") if path.is_file() and "logs" not in path.parts):
        name = str(path.relative_to(model))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found |= {f"{name}:{key}": values.tobytes() for key, values in arrays.items()}
        else:
            found[name] = path.read_bytes()
    found["outcome"] = json.loads((shop.root / "steps" / str(shop.day) / "train.json").read_text())["outcome"]
    return found


def test_a_training_step_that_is_killed_again_and_again_leaves_the_same_bits(first_day: Any, tmp_path: Path) -> None:
    whole, killed = first_day.copy(tmp_path / "whole"), first_day.copy(tmp_path / "killed")
    ran = whole.do("train", *FLAGS)
    assert ran.returncode == 0, ran.stderr
    said = ""
    for name, step, _ in KILLS:
        command = [sys.executable, str(KILLED), name, str(step), *killed.command("train", *FLAGS)]
        died = forking.run(command, check=False, capture_output=True, text=True)
        assert died.returncode == -signal.SIGKILL, (name, died.stderr)
        said += died.stdout
        assert (killed.root / "models" / f".{killed.day}.fit").is_dir()
    ran = killed.do("train", *FLAGS)
    assert ran.returncode == 0, ran.stderr
    said += ran.stdout
    for _, _, line in KILLS:
        assert line in said
    assert "validation was fitted" in ran.stdout
    expected, found = made(whole), made(killed)
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if found[name] != value] == []
    assert not list((killed.root / "models").glob(".*"))


def test_a_fit_of_another_configuration_begins_again(first_day: Any, tmp_path: Path) -> None:
    shop = first_day.copy(tmp_path / "runs")
    settings = ["--set", "training.checkpoint_every_minutes=0", "--set"]
    command = [sys.executable, str(KILLED), "validation", "3"]
    command += shop.command("train", *settings, "training.learning_rate=0.2")
    died = forking.run(command, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    ran = shop.do("train", *settings, "training.learning_rate=0.3")
    assert ran.returncode == 0, ran.stderr
    assert "resumes" not in ran.stdout


def test_validation_chooses_the_epochs_of_the_final_fit_and_says_so(first_day: Any, tmp_path: Path) -> None:
    shop = first_day.copy(tmp_path / "runs")
    ran = shop.do(
        "train", "--set", "training.epochs=6", "--set", "training.patience=2", "--set", "training.learning_rate=0.5"
    )
    assert ran.returncode == 0, ran.stderr
    model = shop.root / "models" / str(shop.day)
    epochs = json.loads((model / "epochs.json").read_text())
    recalls = [report["metrics"]["recall_at_20"] for report in epochs["validation"]]
    best = int(np.argmax(recalls)) + 1
    assert len(recalls) == min(6, best + 2)
    assert [report["is_kept"] for report in epochs["validation"]] == [
        number == best for number in range(1, len(recalls) + 1)
    ]
    assert [report["is_kept"] for report in epochs["final"]] == [False] * (best - 1) + [True]
    assert json.loads((model / "lineage.json").read_text())["epochs"] == {"towers": best}
    assert f"{best} epochs: validation chose epoch {best} of {len(recalls)} tried, recall@20 of new items" in ran.stdout
