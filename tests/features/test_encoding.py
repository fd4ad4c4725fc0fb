"""A raw value becomes the same, correct model input everywhere."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.item_snapshots import ItemState
from features.encoding import MOST_DEVIATIONS, Encoder, Inputs, fit_encoder, moments_of
from features.ids import IdMap, stable_number
from features.kinds import Measure, trigrams
from features.numbers import numeric_names, numeric_values
from features.schema import TOWERS, Schema, Tower, view_schema

DAY = 86_400
NOW = 1_512_086_400  # 2017-12-01
PAST = {
    "user_as_of_seconds": NOW - DAY,
    "user_num_events": 7,
    "user_num_items": 3,
    "user_num_days": 2,
    "user_value": 12.5,
    "user_last_seconds": NOW - 3 * DAY,
    "user_history": ["i3", "gone", "i1"],
    "user_history_seconds": [NOW - 3 * DAY, NOW - 4 * DAY, NOW - 4 * DAY - DAY // 4],
    "user_aisle_values": ["tea", "gone", "Ice cream"],
    "user_aisle_shares": [0.5, 0.25, 0.25],
    "age": "old",
    "income": 30.0,
    "likes": ["red", "gone", "blue", "red"],
    "likes_weights": [0.5, 1.0, 0.25, 4.0],
    "taste": [3.0, -4.0],
    "joined": NOW - 2 * DAY,
    "home": [48.13, 11.57],
    "member": True,
}
SALES = {
    "item_as_of_seconds": NOW - 7 * DAY,
    "item_num_events": 15,
    "item_num_buyers": 3,
    "item_price": 1.5,
    "item_fast_rate": 2.0,
    "item_slow_rate": 1.0,
    "item_fast_new_rate": 0.5,
    "item_slow_new_rate": 0.25,
    "item_age_values": ["young"],
    "item_age_shares": [1.0],
    "aisle": "Ice cream",
    "size": 0.75,
}


@pytest.fixture(scope="module")
def encoder(schema: Schema) -> Encoder:
    """Every value differs from any default, every input is scaled in its own way."""
    names = [name for tower in TOWERS for name in numeric_names(schema, tower)]
    return Encoder(
        schema=schema,
        user_ids=IdMap(["u1", "u2"]),
        item_ids=IdMap(["i1", "i2", "i3", "i4", "i5"]),
        vocabularies={
            "age": IdMap(["old", "young"]),
            "aisle": IdMap(["Ice cream", "tea"]),
            "likes_values": IdMap(["blue", "red"]),
            "home_cells": IdMap(["2:24:5"]),
        },
        scaling={name: (place / 10, 1 + place / 7) for place, name in enumerate(names)},
        history_length=4,
        text_length=5,
        text_buckets=97,
        measures={"likes_values": Measure(3), "taste": Measure(2, 0.5)},
    )


@pytest.fixture(scope="module")
def with_buckets(encoder: Encoder) -> Encoder:
    """The same ids, with 3 buckets for unknown users and 4 for unknown items."""
    everybody, everything = encoder.user_ids.ids([1, 2]), encoder.item_ids.ids([1, 2, 3, 4, 5])
    return dataclasses.replace(encoder, user_ids=IdMap(everybody, 3), item_ids=IdMap(everything, 4))


def raw(schema: Schema, tower: Tower, *rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(
        list(rows), schema=pa.schema([(f"{tower}_id", pa.string()), *view_schema(schema, tower)])
    )


def encoded(encoder: Encoder, tower: Tower, *rows: dict[str, Any], as_of: int = NOW) -> Inputs:
    encode = encoder.encode_users if tower == "user" else encoder.encode_items
    return encode(raw(encoder.schema, tower, *rows), as_of_seconds=np.full(len(rows), as_of))


def assert_same(found: Inputs, expected: Inputs) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], strict=True)


def numbers(encoder: Encoder, tower: Tower, row: dict[str, Any], as_of: int = NOW) -> dict[str, float]:
    """Numeric inputs of one row with their scaling undone."""
    scaled = encoded(encoder, tower, row, as_of=as_of)[f"{tower}_numeric"][0]
    names = numeric_names(encoder.schema, tower)
    return {
        name: float(value) * encoder.scaling[name][1] + encoder.scaling[name][0]
        for name, value in zip(names, scaled, strict=True)
    }


@pytest.mark.parametrize("tower", TOWERS)
def test_inputs_are_as_specified(encoder: Encoder, tower: Tower) -> None:
    row = {"user": {"user_id": "u2", **PAST}, "item": {"item_id": "i2", **SALES}}[tower]
    inputs = encoded(encoder, tower, row, row, row)
    specs = encoder.input_specs(tower)
    assert list(inputs) == [spec.name for spec in specs]
    for spec in specs:
        assert inputs[spec.name].shape == ((3,) if spec.length is None else (3, spec.length))
        assert inputs[spec.name].dtype == spec.dtype
        assert spec.num_rows == 0 or inputs[spec.name].max() < spec.num_rows


def test_ids_categories_and_texts_point_to_their_rows(encoder: Encoder) -> None:
    users = encoded(encoder, "user", {"user_id": "u2", **PAST}, {"user_id": "u1", **PAST, "age": "young"})
    assert users["user_id"].tolist() == [2, 1]
    assert users["age"].tolist() == [1, 2]
    items = encoded(encoder, "item", {"item_id": "i5", **SALES})
    assert items["item_id"].tolist() == [5]
    assert items["aisle"].tolist() == [1]
    ice_cream = trigrams(pa.array(["Ice cream"]), length=5, num_buckets=97)
    np.testing.assert_array_equal(items["aisle_text"], ice_cream)


def test_lists_vectors_and_places_point_to_their_rows(encoder: Encoder) -> None:
    other = {"likes": ["blue"], "likes_weights": None, "taste": [1.0], "home": None}
    users = encoded(encoder, "user", {"user_id": "u2", **PAST}, {"user_id": "u1", **PAST, **other}, {"user_id": "u1"})
    # Blue is 1, red is 2, what is not known is 0; the fourth value is one too many.
    assert users["likes_values"].tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    # Weights that add up to 7/4 where there are three of them.
    weights = [[6 / 7, 12 / 7, 3 / 7], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    np.testing.assert_allclose(users["likes_weights"], weights, rtol=1e-6)
    # Half of (3, -4), and the mark of what is missing: a vector of another width is none.
    assert users["taste"].tolist() == [[1.5, -2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    assert users["home_cells"].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_unknown_ids_and_nulls_have_row_zero(encoder: Encoder) -> None:
    users = encoded(encoder, "user", {"user_id": "new", **PAST, "age": "ancient"}, {"user_id": None, "age": None})
    assert users["user_id"].tolist() == users["age"].tolist() == [0, 0]
    items = encoded(encoder, "item", {"item_id": "new", "aisle": None})
    assert items["item_id"].tolist() == items["aisle"].tolist() == [0]
    assert items["aisle_text"].tolist() == [[0] * 5]


def test_with_buckets_only_unknown_ids_have_another_row(encoder: Encoder, with_buckets: Encoder) -> None:
    users = [{"user_id": name, **PAST} for name in ("u2", "new", None)]
    plain, found = encoded(encoder, "user", *users), encoded(with_buckets, "user", *users)
    new, gone = 3 + int(stable_number(["new"])[0]) % 3, 6 + int(stable_number(["gone"])[0]) % 4
    assert found["user_id"].tolist() == [2, new, 0]
    assert found["user_history"].tolist() == [[3, gone, 1, 0]] * 3
    assert_same(
        {name: values for name, values in found.items() if name not in ("user_id", "user_history")},
        {name: values for name, values in plain.items() if name not in ("user_id", "user_history")},
    )
    items = encoded(with_buckets, "item", *[{"item_id": name, **SALES} for name in ("i5", "gone", None)])
    assert items["item_id"].tolist() == [5, gone, 0]


def test_tables_have_a_row_for_each_bucket(with_buckets: Encoder) -> None:
    rows = {spec.name: spec.num_rows for tower in TOWERS for spec in with_buckets.input_specs(tower)}
    assert (rows["user_id"], rows["item_id"], rows["user_history"]) == (1 + 2 + 3, 1 + 5 + 4, 1 + 5 + 4)
    assert (len(with_buckets.user_ids), len(with_buckets.item_ids)) == (1 + 2, 1 + 5)


def test_shares_are_in_the_rows_of_their_values(encoder: Encoder) -> None:
    """The vocabularies are old, young and Ice cream, tea; what they do not know is in column 0."""
    users = encoded(encoder, "user", {"user_id": "u1", **PAST}, {"user_id": "u1"})
    assert users["user_aisle_shares"].tolist() == [[0.25, 0.25, 0.5], [0.0, 0.0, 0.0]]
    items = encoded(encoder, "item", {"item_id": "i1"}, {"item_id": "i1", **SALES})
    assert items["item_age_shares"].tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_a_schema_without_shares_has_no_such_input(encoder: Encoder) -> None:
    schema = encoder.schema.model_copy(update={"user_statistics_of": (), "item_statistics_of": ()})
    plain = dataclasses.replace(encoder, schema=schema)
    for tower, share in (("user", "user_aisle_shares"), ("item", "item_age_shares")):
        names = [spec.name for spec in encoder.input_specs(tower)]  # type: ignore[arg-type]
        assert [spec.name for spec in plain.input_specs(tower)] == [name for name in names if name != share]  # type: ignore[arg-type]
        assert share in names


def test_an_unknown_number_is_encoded_as_the_average(encoder: Encoder) -> None:
    """Scaled numbers are centred, and nothing known is zero there."""
    assert encoded(encoder, "user", {"user_id": "u1"})["user_numeric"].tolist() == [[0.0] * 15]
    assert encoded(encoder, "item", {"item_id": "i1"})["item_numeric"].tolist() == [[0.0] * 10]


def test_numbers_are_shifted_and_scaled(encoder: Encoder) -> None:
    inputs = encoded(encoder, "user", {"user_id": "u1", **PAST})["user_numeric"][0]
    # log(1 + x) of events, items, days, value and days since the last event, then the column as it is.
    plain = [math.log(8), math.log(4), math.log(3), math.log(13.5), math.log(1 + 3), 30.0]
    # Joined two days before, on a Wednesday at midnight, when 332 of the 365 days of 2017 had passed: age, not ahead,
    # and sine and cosine of hour, weekday and day of the year. Then the flag.
    shares = [0, 2 / 7, 332 / 365]
    waves = [wave(2 * math.pi * share) for share in shares for wave in (math.sin, math.cos)]
    plain += [math.log(3), 0.0, *waves, 1.0]
    expected = [(value - place / 10) / (1 + place / 7) for place, value in enumerate(plain)]
    np.testing.assert_allclose(inputs, np.minimum(expected, MOST_DEVIATIONS), rtol=1e-6)


def test_a_number_far_from_those_of_training_is_limited(encoder: Encoder) -> None:
    far = [encoded(encoder, "user", {"user_id": "u1", **PAST, "income": value}) for value in (1e20, -1e20)]
    place = numeric_names(encoder.schema, "user").index("income")
    assert [one["user_numeric"][0][place] for one in far] == [MOST_DEVIATIONS, -MOST_DEVIATIONS]


def test_a_user_without_events_has_no_recency_and_refunds_do_not_make_a_value_negative(encoder: Encoder) -> None:
    row = {"user_id": "u1", **PAST, "user_last_seconds": 0, "user_value": -3.0}
    found = numbers(encoder, "user", row)
    assert found["user_recency"] == pytest.approx(encoder.scaling["user_recency"][0], abs=1e-6)
    assert found["user_value"] == pytest.approx(0, abs=1e-6)


def test_a_history_points_to_items_latest_first_and_is_padded_with_zero(encoder: Encoder) -> None:
    users = encoded(encoder, "user", {"user_id": "u1", **PAST})
    assert users["user_history"].tolist() == [[3, 0, 1, 0]]
    assert users["user_history_age_days"].tolist() == [[3.0, 4.0, 4.25, 0.0]]


def test_a_null_list_is_an_empty_history(encoder: Encoder) -> None:
    nothing = {"user_history": None, "user_history_seconds": None}
    empty = {"user_history": [], "user_history_seconds": []}
    rows = [{"user_id": "u1", **PAST, **lists} for lists in (nothing, {}, empty)]
    users = encoded(encoder, "user", *rows)
    assert users["user_history"].tolist() == [[0] * 4, [3, 0, 1, 0], [0] * 4]
    assert users["user_history_age_days"].tolist() == [[0.0] * 4, [3.0, 4.0, 4.25, 0.0], [0.0] * 4]


def test_a_history_longer_than_t_keeps_the_latest(encoder: Encoder) -> None:
    longer = {"user_history": ["i1", "i2", "i3", "i4", "i5", "i1"]}
    longer["user_history_seconds"] = [NOW - place * DAY for place in range(6)]  # type: ignore[misc]
    rows = [{"user_id": "u1", **PAST, **longer}, {"user_id": "u1", **PAST}]
    users = encoded(encoder, "user", *rows)
    assert users["user_history"].tolist() == [[1, 2, 3, 4], [3, 0, 1, 0]]
    assert users["user_history_age_days"][0].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_ages_are_relative_to_the_moment_asked_and_never_negative(encoder: Encoder) -> None:
    later = encoded(encoder, "user", {"user_id": "u1", **PAST}, as_of=NOW + 2 * DAY)
    assert later["user_history_age_days"].tolist() == [[5.0, 6.0, 6.25, 0.0]]
    earlier = encoded(encoder, "user", {"user_id": "u1", **PAST}, as_of=NOW - 4 * DAY)
    assert earlier["user_history_age_days"].tolist() == [[0.0, 0.0, 0.25, 0.0]]
    recency = numbers(encoder, "user", {"user_id": "u1", **PAST}, as_of=NOW + 2 * DAY)["user_recency"]
    assert recency == pytest.approx(math.log(1 + 5), rel=1e-6)


@given(days=st.floats(0, 400))
def test_rates_halve_with_every_half_life(encoder: Encoder, days: float) -> None:
    as_of = NOW - 7 * DAY + round(days * DAY)
    age = round(days * DAY) / DAY
    row = raw(encoder.schema, "item", {"item_id": "i1", **SALES})
    found = numeric_values(row, encoder.schema, "item", as_of_seconds=np.array([as_of]))
    rates = {"fast": (2.0, 7), "slow": (1.0, 28), "fast_new": (0.5, 7), "slow_new": (0.25, 28)}
    for name, (rate, half_life) in rates.items():
        [logarithm] = found[f"item_{name}"]
        assert math.exp(logarithm) - 1e-3 == pytest.approx(rate * 2 ** (-age / half_life), abs=1e-12)
    assert found["item_trend"] == pytest.approx(found["item_fast"] - found["item_slow"])
    assert found["item_trend_new"] == pytest.approx(found["item_fast_new"] - found["item_slow_new"])


def test_after_one_week_the_fast_rate_is_half(encoder: Encoder) -> None:
    found = numbers(encoder, "item", {"item_id": "i1", **SALES})
    # The row is 7 days old: 2 / 2 = 1 event a day on the fast clock, 1 / 2^(1/4) on the slow one.
    assert found["item_fast"] == pytest.approx(math.log(1 + 1e-3), abs=1e-5)
    assert found["item_slow"] == pytest.approx(math.log(2**-0.25 + 1e-3), abs=1e-5)
    assert found["item_events"] == pytest.approx(math.log(16), rel=1e-6)
    assert found["item_buyers"] == pytest.approx(math.log(4), rel=1e-6)
    assert found["item_price"] == pytest.approx(math.log(2.5), rel=1e-6)
    assert found["size"] == pytest.approx(0.75, rel=1e-5)


USER_ROWS = st.fixed_dictionaries(
    {"user_id": st.sampled_from(["u1", "u2", "new"])},
    optional={
        "user_num_events": st.integers(0, 99),
        "user_last_seconds": st.integers(NOW - 99 * DAY, NOW),
        "user_value": st.floats(-1, 99, width=32),
        "user_history": st.lists(st.sampled_from(["i1", "i2", "gone"]), max_size=6),
        "age": st.sampled_from(["old", "young", "ancient"]),
        "income": st.none() | st.floats(0, 99, width=32),
    },
)


@given(st.lists(USER_ROWS, min_size=1, max_size=6))
def test_one_user_alone_is_the_same_row_in_a_batch(encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if "user_history" in row:
            row["user_history_seconds"] = [NOW - place * DAY for place in range(len(row["user_history"]))]
    table = raw(encoder.schema, "user", *rows)
    moments = NOW + np.arange(len(rows)) * DAY
    batch = encoder.encode_users(table, as_of_seconds=moments)
    for place in range(len(rows)):
        alone = encoder.encode_users(table.slice(place, 1), as_of_seconds=moments[place : place + 1])
        assert_same(alone, {name: values[place : place + 1] for name, values in batch.items()})


def test_one_item_alone_is_the_same_row_in_a_batch(encoder: Encoder) -> None:
    others = [{"item_id": "i4", **SALES, "aisle": "tea", "size": None}, {"item_id": None, "aisle": "Ice ice"}]
    batch = encoded(encoder, "item", {"item_id": "i1", **SALES}, *others)
    for place, row in enumerate([{"item_id": "i1", **SALES}, *others]):
        assert_same(encoded(encoder, "item", row), {name: values[[place]] for name, values in batch.items()})


@pytest.mark.parametrize("tower", TOWERS)
def test_an_empty_batch_has_inputs_without_rows(encoder: Encoder, tower: Tower) -> None:
    inputs = encoded(encoder, tower)
    for spec in encoder.input_specs(tower):
        assert inputs[spec.name].shape == ((0,) if spec.length is None else (0, spec.length))
        assert inputs[spec.name].dtype == spec.dtype


def test_a_saved_encoder_encodes_alike(with_buckets: Encoder, tmp_path: Path) -> None:
    encoder = with_buckets
    encoder.save(tmp_path / "encoder")
    loaded = Encoder.load(tmp_path / "encoder")
    for tower in TOWERS:
        assert loaded.input_specs(tower) == encoder.input_specs(tower)
    users = [{"user_id": "u2", **PAST}, {"user_id": "new"}, {"user_id": "u1", **PAST, "age": "young"}]
    assert_same(encoded(loaded, "user", *users), encoded(encoder, "user", *users))
    items = [{"item_id": "i4", **SALES}, {"item_id": "new", **SALES, "aisle": "tea"}]
    assert_same(encoded(loaded, "item", *items), encoded(encoder, "item", *items))
    plain = {field.name for field in dataclasses.fields(Encoder)} - {"user_ids", "item_ids", "vocabularies"}
    assert {name: getattr(loaded, name) for name in plain} == {name: getattr(encoder, name) for name in plain}


def sample(schema: Schema, tower: Tower, *rows: dict[str, Any]) -> pa.Table:
    moment = dt.datetime.fromtimestamp(NOW, dt.UTC)
    return raw(schema, tower, *rows).append_column(
        "event_timestamp", pa.array([moment] * len(rows), pa.timestamp("us", tz="UTC"))
    )


def test_scales_are_mean_and_deviation_of_known_values_over_all_samples(schema: Schema) -> None:
    counts = [0, 3, 15, None, 7]
    rows = [{"item_id": "i1", **SALES, "item_num_events": count} for count in counts]
    samples = [("item", sample(schema, "item", *rows[:2])), ("item", sample(schema, "item", *rows[2:]))]
    made = fit(schema, samples)
    logs = np.log1p([0, 3, 15, 7])
    assert made.scaling["item_events"] == pytest.approx((logs.mean(), logs.std()))


def test_a_number_that_never_varies_or_was_never_seen_is_scaled_by_one(schema: Schema) -> None:
    made = fit(schema, [("item", sample(schema, "item", *[{"item_id": "i1", **SALES}] * 3))])
    assert made.scaling["item_buyers"] == pytest.approx((math.log(4), 1.0))
    assert made.scaling["user_events"] == (0.0, 1.0)


def fit(schema: Schema, samples: Any) -> Encoder:
    users = raw(
        schema,
        "user",
        {"user_id": "u2", "age": "young", "income": 1.0, "likes": ["red", "blue"], "taste": [3.0, 4.0]},
        {"user_id": "u1", "income": 2.0, "likes": ["red", "red", "old"], "home": [48.13, 11.57]},
    )
    items = pa.table({"item_id": ["i1", "i9", "i5"], "aisle": ["tea", "Ice", "tea"], "size": [1.0, 2.0, None]})
    return fit_encoder(schema, users, items, samples, history_length=4, text_length=5, text_buckets=97)


def test_ids_have_the_rows_of_their_tables_and_categories_those_of_the_alphabet(schema: Schema) -> None:
    made = fit(schema, [])
    assert made.user_ids.rows(["u2", "u1"]).tolist() == [1, 2]
    assert made.item_ids.rows(["i1", "i9", "i5"]).tolist() == [1, 2, 3]
    assert {name: values.ids(range(1, len(values))) for name, values in made.vocabularies.items()} == {
        "age": ["young"],
        "aisle": ["Ice", "tea"],
        "likes_values": ["blue", "old", "red"],
        "home_cells": ["0.02:2406:578", "0.1:481:115", "0.5:96:23", "2:24:5"],
    }
    # The longest list; the width of vectors, and one over their mean length.
    assert made.measures == {"likes_values": Measure(3), "taste": Measure(2, 0.2)}


def test_both_sides_have_as_many_buckets_as_asked_for() -> None:
    users, items = pa.table({"user_id": ["u1"]}), pa.table({"item_id": ["i1", "i2"]})
    sizes = {"history_length": 1, "text_length": 1, "text_buckets": 1}
    for num_buckets in (0, 7):
        made = fit_encoder(Schema(), users, items, [], **sizes, id_buckets=num_buckets)
        assert (made.user_ids.num_buckets, made.item_ids.num_buckets) == (num_buckets, num_buckets)
    assert fit_encoder(Schema(), users, items, [], **sizes).user_ids.num_buckets == 0


def test_a_column_may_be_category_and_number_at_once() -> None:
    schema = Schema.model_validate({"item_columns": {"year": ["categorical", "numeric"]}})
    users, items = pa.table({"user_id": ["u1"]}), pa.table({"item_id": ["i1", "i2"], "year": ["8", "9"]})
    made = fit_encoder(schema, users, items, [], history_length=1, text_length=1, text_buckets=1)
    inputs = encoded(made, "item", {"item_id": "i1", "year": "9"}, {"item_id": "i2", "year": None})
    assert inputs["year"].tolist() == [2, 0]
    assert inputs["item_numeric"][:, -1].tolist() == [9.0, 0.0]


def test_moments_are_whole_unix_seconds(schema: Schema) -> None:
    assert moments_of(sample(schema, "user", {"user_id": "u1"})).tolist() == [NOW]


def test_an_item_without_events_is_encoded_as_its_first_snapshot_is(encoder: Encoder, schema: Schema) -> None:
    """What training puts in place of an item's counts is what an item without any really has."""
    row = ItemState.empty(1, {}).rows(np.array([0]), NOW // DAY - 3)
    names = ("num_events", "num_buyers", "price", "fast_rate", "slow_rate", "fast_new_rate", "slow_new_rate")
    counts = {f"item_{name}": getattr(row, name)[0] for name in names}
    shares = {name: [] for field in schema.shares_of("item") for name in (field.values, field.shares)}
    fields = {**SALES, "item_as_of_seconds": row.moment, **counts, **shares}
    raw = pa.Table.from_pylist([fields], schema=view_schema(schema, "item"))
    raw = raw.append_column("item_id", pa.array(["i1"]))
    found = encoder.encode_items(raw, as_of_seconds=np.array([NOW]))
    none = encoder.without_events()
    assert {name: len(values) for name, values in none.items()} == {"item_numeric": 9, "item_age_shares": 3}
    for name, values in none.items():
        np.testing.assert_array_equal(found[name][0, : len(values)], values)
    sold = encoder.encode_items(pa.Table.from_pylist([SALES | {"item_id": "i1"}]), as_of_seconds=np.array([NOW]))
    assert (sold["item_numeric"][0, :9] != none["item_numeric"]).all()
