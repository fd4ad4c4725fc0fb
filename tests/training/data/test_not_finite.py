"""A loss that is not a number is explained by the column or the rewards that made it so."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.encoding import Encoder
from features.numbers import numeric_names
from training.data.batches import Batch, BatchPlan, Span, batches, load_span
from training.data.not_finite import cause_of
from training.negatives.even_draws import uniform
from training.negatives.known_positives import KnownPositives


def batch_of(span: Span, encoder: Encoder) -> Batch:
    plan = BatchPlan(
        batch_size=192, in_batch=True, queue_size=0, sources=[uniform(num=7)],
        known=KnownPositives.of(np.zeros(0, np.int64), np.zeros(0, np.int64), num_user_rows=25),
        num_item_rows=25, catalogue_size=24, correct=True, frequency=None,
    )  # fmt: skip
    assert len(encoder.item_ids) == 25
    return next(batches(span, plan, seed=[1]))


def test_numbers_that_can_be_used_have_no_cause(groups_span: Span, encoder: Encoder) -> None:
    assert cause_of(batch_of(groups_span, encoder), encoder) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize(("tower", "name"), [("user", "income"), ("item", "item_price")])
def test_the_column_is_named_and_whose_it_is(
    groups_span: Span, encoder: Encoder, tower: Any, name: str, value: float
) -> None:
    names = numeric_names(encoder.schema, tower)
    place = names.index(name) if name in names else len(names) - 1
    batch = batch_of(groups_span, encoder)
    batch[f"{tower}/{tower}_numeric"][5, place] = value
    ids = encoder.user_ids if tower == "user" else encoder.item_ids
    whose = ids.ids(batch[f"{tower}/{tower}_id"][5:6])[0]
    message = cause_of(batch, encoder)
    assert message is not None
    assert message.startswith(f"the column {names[place]} of {tower} {whose} is {value:g} after scaling (1 of ")
    assert message.endswith(f"correct it in the source, or leave the column out of dataset.{tower}_columns")


def test_rewards_are_named_before_columns(groups_span: Span, encoder: Encoder) -> None:
    batch = batch_of(groups_span, encoder)
    batch["user/user_numeric"][:] = np.nan
    batch["weight"][3] = np.inf
    user, item = (
        encoder.user_ids.ids(batch["user/user_id"][3:4])[0],
        encoder.item_ids.ids(batch["item/item_id"][3:4])[0],
    )
    assert cause_of(batch, encoder) == (
        f"the reward or value of user {user} and item {item} counts inf (1 of 192 rows of the batch); correct it in "
        "the events, or set training.reward: none"
    )


def test_a_row_of_an_unknown_id_is_named_so(groups_span: Span, encoder: Encoder) -> None:
    unknown = replace(groups_span, users={**groups_span.users, "user_id": np.zeros_like(groups_span.users["user_id"])})
    batch = batch_of(unknown, encoder)
    batch["user/user_history_age_days"][0, 0] = np.inf
    assert "the column user_history_age_days of an unknown user is inf" in str(cause_of(batch, encoder))


@pytest.mark.parametrize(("reward", "shown"), [(np.inf, "inf"), (np.nan, "nan")])
def test_rewards_that_are_not_finite_are_refused_with_the_day_before_they_spread(
    tmp_path: Path, write_days: Callable[..., list[dt.date]], event: Any, encoder: Encoder, reward: float, shown: str
) -> None:
    days = write_days(tmp_path, [event(1, 1), event(2, 4, day=1, reward=reward), event(3, 2, day=1)])
    settings: dict[str, Any] = {"only_first": True, "user_balance": 1.0, "reward_power": 1.0}
    expected = (
        f"{days[1]}: 1 of 2 rewards or values are not finite, first that of user u2 and item i4, {shown}; correct"
    )
    with pytest.raises(ValueError, match=expected):
        load_span(tmp_path, days, encoder, reward="reward", **settings)
    assert np.isfinite(load_span(tmp_path, days, encoder, reward="none", **settings).weight).all()


def test_large_rewards_do_not_overflow_as_they_are_balanced(
    tmp_path: Path, write_days: Callable[..., list[dt.date]], event: Any, encoder: Encoder
) -> None:
    days = write_days(tmp_path, [event(user, 1, second=second, reward=1.5e38) for second, user in enumerate((1, 1, 2))])
    span = load_span(tmp_path, days, encoder, only_first=True, user_balance=1.0, reward="reward", reward_power=1.0)
    # Two users, who count alike: 3/4, 3/4 and 3/2 of what each of three would.
    np.testing.assert_allclose(span.weight / 1.5e38, [3 / 4, 3 / 4, 3 / 2], rtol=1e-6)
