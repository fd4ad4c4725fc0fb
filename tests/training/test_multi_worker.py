"""Which process trains, which takes part, and which is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.steps import as_chief
from twinspire.config import Config
from twinspire.job import only_takes_part
from twinspire.load_config import load

TABLES = Path(__file__).parents[2] / "configs" / "tables_example.yaml"
TOGETHER = "training.distribute=multi_worker"


def describe(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """Has this process be one of two."""
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}))


def config(*overrides: str) -> Config:
    return load(TABLES, list(overrides))


@pytest.mark.parametrize(("index", "expected"), [(0, False), (1, True)])
def test_all_but_the_chief_only_take_part(index: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(monkeypatch, index)
    assert only_takes_part(config(TOGETHER)) == expected
    # Set for another program: without the key it is not read.
    assert not only_takes_part(config())


def test_without_others_a_process_is_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert not only_takes_part(config(TOGETHER))


def test_one_process_needs_no_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", "not for us")
    for nightly in (False, True):
        with as_chief(config().training, nightly=nightly):
            pass


def test_a_nightly_run_of_several_processes_is_refused() -> None:
    message = r"multi_worker, which a nightly run does not support.*set training.distribute: none"
    with pytest.raises(ValueError, match=message), as_chief(config(TOGETHER).training, nightly=True):
        pass


def test_several_processes_without_a_description_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with (
        pytest.raises(ValueError, match=r"TF_CONFIG is not set.*such as"),
        as_chief(config(TOGETHER).training, nightly=False),
    ):
        pass


def test_a_process_that_is_not_the_chief_does_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    describe(monkeypatch, 1)
    message = r"process 1 of 2, and only the first, 0, writes what is made; here, run `twinspire train`"
    with pytest.raises(ValueError, match=message), as_chief(config(TOGETHER).training, nightly=False):
        pass
