"""A step runs again exactly when it must, and a failed step leaves the old state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from artefacts.steps import Step, digest_of, finished, fresh_folder, remove_left_over, run_step


@pytest.fixture
def step(tmp_path: Path) -> Step:
    output = tmp_path / "output.txt"

    def action() -> str:
        output.write_text("made")
        return "one thing made"

    return Step("make", "a1", (output,), action, tmp_path / "records")


def fails() -> str:
    raise ValueError("no")


def test_a_step_is_done_once_while_nothing_changes(step: Step) -> None:
    assert finished(step) is None
    record = run_step(step)
    assert finished(step) == record
    assert (record.name, record.digest, record.outcome) == ("make", "a1", "one thing made")
    assert record.seconds >= 0
    assert record.peak_memory_bytes > 1_000_000


def remove_output(step: Step) -> Step:
    step.outputs[0].unlink()
    return step


def truncate_record(step: Step) -> Step:
    path = step.records / "make.json"
    path.write_text(path.read_text()[:20])
    return step


def add_to_record(step: Step) -> Step:
    path = step.records / "make.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
    return step


@pytest.mark.parametrize(
    "change",
    [
        lambda step: replace(step, digest="b2"),
        lambda step: replace(step, is_current=lambda: False),
        remove_output,
        truncate_record,
        add_to_record,
    ],
    ids=["digest", "moved on", "output missing", "record truncated", "record of another version"],
)
def test_a_step_is_done_again(step: Step, change: Callable[[Step], Step]) -> None:
    run_step(step)
    assert finished(change(step)) is None


def test_a_step_that_fails_leaves_no_record_not_even_the_one_before(step: Step) -> None:
    run_step(step)
    with pytest.raises(ValueError, match="no"):
        run_step(replace(step, action=fails))
    assert list(step.records.iterdir()) == []
    assert finished(step) is None


def test_the_digest_is_of_names_and_values_not_of_their_order() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of({"a": 1}) != digest_of({"b": 1})


def test_a_fresh_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    for name in ("first", "second"):
        with fresh_folder(target) as folder:
            (folder / name).write_text(name)
            assert not (target / name).exists()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_block_that_raises_leaves_the_old_folder_and_the_next_one_starts_empty(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with fresh_folder(target) as folder:
        (folder / "good").touch()

    def half() -> None:
        with fresh_folder(target) as folder:
            (folder / "half").touch()
            fails()

    with pytest.raises(ValueError, match="no"):
        half()
    assert [path.name for path in target.iterdir()] == ["good"]
    # What was half written could be what fills the disk.
    assert os.listdir(tmp_path) == ["target"]
    with fresh_folder(target) as folder:
        assert list(folder.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from artefacts.steps import Step, fresh_folder, run_step

root = Path(sys.argv[1])
def action():
    with fresh_folder(root / "output") as folder:
        (folder / "new").touch()
        os.kill(os.getpid(), signal.SIGKILL)
run_step(Step("make", "a1", (root / "output",), action, root / "records"))
"""


def test_a_kill_in_between_leaves_the_old_output_and_the_step_to_be_done(tmp_path: Path) -> None:
    output = tmp_path / "output"

    def action() -> str:
        with fresh_folder(output) as folder:
            (folder / "old").touch()
        return "done"

    step = Step("make", "a1", (output,), action, tmp_path / "records")
    run_step(step)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(output) == ["old"]
    assert finished(step) is None
    run_step(step)
    assert finished(step) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "records"]


def test_the_old_folder_is_renamed_away_before_any_file_of_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    with fresh_folder(target) as folder:
        (folder / "old").touch()

    def killed(self: Path, to: Path) -> None:
        raise KeyboardInterrupt

    def twice() -> None:
        with fresh_folder(target) as folder:
            (folder / "new").touch()
            monkeypatch.setattr(Path, "rename", killed)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert [path.name for path in target.iterdir()] == ["old"]


def test_leftovers_of_killed_runs_are_removed_except_arms_bundles_and_tables(tmp_path: Path) -> None:
    left = ["models/.2024-02-04.tmp", "features/catalogue/.2024-02-04.old", "steps/2024-02-04/.train.json.tmp"]
    kept = ["arms/a/models/.b.tmp", "bundles/.writing-x", ".tables.old", "models/2024-02-04", ".lock"]
    for name in [*left, *kept]:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    remove_left_over(tmp_path)
    assert [name for name in left if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name / "file").exists()] == []
