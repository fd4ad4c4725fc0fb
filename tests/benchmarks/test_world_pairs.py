"""Each method helps in the world that has what it lives on, and does no harm in the one that has not."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artefacts.config import ConfigError
from benchmarks.world_pairs.__main__ import outcome_text, to_markdown
from benchmarks.world_pairs.pairs import SIDES, Outcome, Pair, load_pairs, measure
from evaluation.statistics import Interval
from evaluation.worlds.config import WorldConfig
from twinspire.job import code_version
from twinspire.load_config import resolve
from twinspire.trained_arm import Invocation

MUST, CANNOT = SIDES
PAIRS, SMALL = load_pairs(), load_pairs(small=True)
TESTED = [name for name, pair in PAIRS.items() if pair.settings.is_tested]
RUN = Invocation(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), code_version())
# Far smaller than the others: the effect is ten times the interval.
TINY_WORLD = {"users": 300, "items": 240, "catalogue.categories": 12, "days": 21}
TINY_CONFIG = {"training.epochs": 2, "training.batch_size": 256}


def world_of(pair: Pair, side: str, **size: Any) -> WorldConfig:
    keys = {**pair.world(side), **size}
    return resolve(WorldConfig, {}, [f"{key}={json.dumps(value)}" for key, value in keys.items()], source=pair.name)


def an_outcome(side: str, low: float, high: float, name: str = "log_q") -> Outcome:
    middle = (low + high) / 2
    off, on = Interval(0.2, 0.1, 0.3, 50), Interval(0.2 + middle, 0.1, 0.3, 50)
    return Outcome(PAIRS[name], side, 50, off, on, Interval(middle, low, high, 50), 0.8, (1.0, 2.0))


@pytest.mark.parametrize("name", PAIRS)
def test_the_two_worlds_of_a_pair_differ_in_the_mechanism_alone(name: str) -> None:
    for pair in (PAIRS[name], SMALL[name]):
        must, cannot = (pair.world(side) for side in SIDES)
        assert {key for key in {**must, **cannot} if must.get(key) != cannot.get(key)} == {
            *pair.settings.must_help,
            *pair.settings.cannot_help,
        }
        assert world_of(pair, MUST) != world_of(pair, CANNOT)


def test_a_pair_that_names_no_key_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("mechanism: none\nmethod: none\ncannot_help: {}\nwithot: {}\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml: unknown key 'withot'; did you mean 'without'"):
        load_pairs(folder=tmp_path)


@pytest.mark.parametrize(
    ("side", "low", "high", "expected"),
    [
        (MUST, 0.001, 0.020, "helps"),
        (MUST, -0.001, 0.020, "does not help"),
        (MUST, -0.020, -0.010, "harms"),
        # Of .2, two in a hundred are .004.
        (CANNOT, -0.0039, 0.001, "no harm"),
        (CANNOT, -0.0041, 0.001, "harm not excluded"),
        (CANNOT, -0.0041, -0.001, "harms"),
        (CANNOT, -0.0039, -0.001, "no harm"),
    ],
)
def test_an_interval_decides_what_a_method_does(side: str, low: float, high: float, expected: str) -> None:
    assert outcome_text(an_outcome(side, low, high)) == expected


def test_the_page_has_a_row_for_each_world_and_the_share_of_the_oracle() -> None:
    text = to_markdown([an_outcome(MUST, 0.01, 0.03), an_outcome(CANNOT, -0.002, 0.002)], command="make the page")
    assert text.startswith("    make the page\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2][0] == "log_q"
    assert rows[2][2] == "must help: `catalogue.popularity: 1.2`"
    assert rows[2][5:] == [
        ".2000 [.1000, .3000]", ".2200 [.1000, .3000]", "+.0200 [+.0100, +.0300]", ".8000", "25.0% to 27.5%", "helps",
    ]  # fmt: skip
    assert rows[3][2] == "cannot help: `catalogue.popularity: 0`"
    assert rows[3][-1] == "no harm"


def test_a_pair_that_is_not_tested_has_its_reason_on_the_page() -> None:
    untested = {name: pair.settings.note for name, pair in PAIRS.items() if name not in TESTED}
    assert list(untested) == ["hard_in_batch", "sparcode"]
    assert all(untested.values())


@pytest.mark.end_to_end
@pytest.mark.timeout(600)
def test_a_method_that_is_off_in_both_arms_does_not_help_and_what_was_fitted_is_not_fitted_again(
    tmp_path: Path,
) -> None:
    history = PAIRS["history"]
    settings = history.settings.model_copy(update={"small_world": TINY_WORLD, "small_config": TINY_CONFIG})
    tiny = Pair("history", settings, small=True)
    found = measure(tiny, MUST, tmp_path, RUN)
    assert found.helps
    assert found.on.mean < found.oracle
    lists = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("exact.npy")}
    assert len(lists) == 3
    assert measure(tiny, MUST, tmp_path, RUN) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("exact.npy")} == lists
    off = replace(tiny, settings=settings.model_copy(update={"with_method": settings.without}))
    without = measure(off, MUST, tmp_path, RUN)
    assert (without.difference.low, without.difference.high) == (0.0, 0.0)
    assert not without.helps


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TESTED)
def test_a_method_helps_where_it_must(name: str, tmp_path: Path) -> None:
    found = measure(SMALL[name], MUST, tmp_path, RUN)
    assert found.helps, found


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TESTED)
def test_a_method_does_no_harm_where_it_cannot_help(name: str, tmp_path: Path) -> None:
    found = measure(SMALL[name], CANNOT, tmp_path, RUN)
    assert not found.harms, found
