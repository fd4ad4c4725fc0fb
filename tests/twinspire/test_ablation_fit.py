"""Every fit runs once, in its own folder, on features that arms share."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from twinspire.ablation import plan_fits
from twinspire.ablation_config import Ablation, load_ablation
from twinspire.ablation_fit import Fit
from twinspire.trained_arm import Invocation

TABLES = Path(__file__).parents[2] / "configs" / "tables_example.yaml"
FIRST, SECOND = dt.date(2024, 5, 1), dt.date(2024, 5, 8)
ARMS = f"""
config: {TABLES}
cuts: [{FIRST}, {SECOND}]
seeds: [1, 2]
reference: default
arms:
  default: {{}}
  mined: {{overrides: &mined {{training.negatives.easy_per_hard: 100}}, needs: default}}
  cascade: {{overrides: {{<<: *mined}}, lists: cascade, needs: default}}
  short history: {{overrides: {{features.history_length: 5}}}}
  valued: {{overrides: {{index.weight: value}}, lists: hnsw}}
"""
RUN = Invocation(dt.datetime(2024, 7, 1, tzinfo=dt.UTC), "1")


@pytest.fixture
def ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ablation:
    (tmp_path / "data" / "my_shop" / "orders").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "arms.yaml"
    path.write_text(ARMS)
    return load_ablation(path, [])


@pytest.fixture
def fits(ablation: Ablation) -> dict[tuple[str, int, dt.date], Fit]:
    return plan_fits(ablation, Path("runs"))


def test_every_arm_is_fitted_at_every_cut_with_every_seed_and_one_seed_is_whole_before_the_next(
    fits: dict[tuple[str, int, dt.date], Fit],
) -> None:
    assert len(fits) == 5 * 2 * 2
    assert [seed for _, seed, _ in fits] == [1] * 10 + [2] * 10
    for (_, seed, cut), fit in fits.items():
        assert (fit.config.seed, fit.config.as_of, fit.paths.as_of) == (seed, cut, cut)


def test_a_fit_lies_apart_and_shares_tables_and_features(fits: dict[tuple[str, int, dt.date], Fit]) -> None:
    one, other = fits["default", 1, FIRST].paths, fits["mined", 2, FIRST].paths
    assert one.model == Path("runs/my_shop/arms/default-1/models/2024-05-01")
    assert other.steps == Path("runs/my_shop/arms/mined-2/steps/2024-05-01")
    assert one.examples == other.examples == Path("runs/my_shop/features/examples")
    assert len({fit.paths.model for fit in fits.values()}) == 4 * 2 * 2


def test_arms_that_differ_in_retrieval_only_share_a_fit_which_is_kept(
    fits: dict[tuple[str, int, dt.date], Fit],
) -> None:
    assert fits["cascade", 1, SECOND].paths == fits["mined", 1, SECOND].paths
    kept = {name: fits[name, 1, FIRST].keep for name in ("default", "mined", "cascade", "short history")}
    assert kept == {"default": True, "mined": True, "cascade": True, "short history": False}


def test_arms_that_differ_in_their_index_have_lists_of_their_own(fits: dict[tuple[str, int, dt.date], Fit]) -> None:
    assert fits["valued", 1, FIRST].paths != fits["default", 1, FIRST].paths


def test_an_arm_that_overrides_features_has_features_of_its_own(fits: dict[tuple[str, int, dt.date], Fit]) -> None:
    own = fits["short history", 1, FIRST].paths.root
    assert own.parent == Path("runs")
    assert own.name.startswith("my_shop_")


def test_a_fit_is_done_again_when_the_one_that_it_is_mined_from_changes(
    ablation: Ablation, fits: dict[tuple[str, int, dt.date], Fit]
) -> None:
    mined = fits["mined", 1, FIRST]
    assert mined.needs == fits["default", 1, FIRST]
    arms = {**ablation.arms}
    arms["default"] = arms["default"].model_copy(
        update={"towers": arms["default"].towers.model_copy(update={"factor_dim": 0})}
    )
    changed = plan_fits(Ablation(ablation.settings, ablation.base, arms), Path("runs"))["mined", 1, FIRST]
    assert changed.config == mined.config
    before, after = mined.steps(RUN), changed.steps(RUN)
    for name in ("mine", "train", "embed", "index"):
        assert before[name].digest != after[name].digest
    assert before["train"].digest == fits["mined", 1, FIRST].steps(RUN)["train"].digest
