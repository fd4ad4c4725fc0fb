"""Differences between two bundles."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from features.encoding import Encoder
from features.ids import IdMap
from serving.bundles.bundle_diff import Exchange, changes, compare, exchange, leaves
from serving.bundles.manifest import BundleError, Facts
from serving.bundles.publish import Parts, write

NOTHING = Exchange(0, 0, {}, {})


def test_leaves_are_values_lists_and_empty_sections() -> None:
    tree = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}
    assert dict(leaves(tree)) == {"a.b": 1, "a.c.d": [1, 2], "e": None, "f": {}}


def test_changes_have_both_sides_and_the_difference_of_numbers() -> None:
    old = {"same": 1, "number": 2, "flag": True, "text": "x", "gone": None, "section": None}
    new = {"same": 1, "number": 5, "flag": False, "text": "y", "came": 0, "section": {"key": 1}}
    assert changes(old, new) == {
        "number": {"old": 2, "new": 5, "difference": 3},
        "flag": {"old": True, "new": False},
        "text": {"old": "x", "new": "y"},
        # Null is a value: that a key is not there is something else.
        "gone": {"old": None},
        "section": {"old": None},
        "came": {"new": 0},
        "section.key": {"new": 1},
    }


def test_an_exchange_of_items_counts_all_and_names_a_few_in_order() -> None:
    old, new = {f"i{number}": f"name {number}" for number in range(8)}, {"i7": "other name", "n2": None, "n1": "new"}
    found = exchange(old, new)
    assert (found.num_added, found.num_removed) == (2, 7)
    assert list(found.added.items()) == [("n2", None), ("n1", "new")]
    assert list(found.removed) == ["i0", "i1", "i2", "i3", "i4"]
    assert exchange(new, new) == NOTHING


def test_a_bundle_does_not_differ_from_itself(written: Path) -> None:
    found = compare(written, written)
    assert (found.old, found.new) == (written.name, written.name)
    assert [found.configuration, found.dataset_schema, found.facts, found.metrics, found.size_bytes] == [{}] * 5
    assert (found.items, found.users) == (NOTHING, NOTHING)


def test_every_kind_of_difference_is_reported(
    written: Path, parts: Parts, facts: Facts, encoder: Encoder, tmp_path: Path
) -> None:
    ids = encoder.item_ids.ids(range(1, 41))
    other = dataclasses.replace(
        encoder,
        item_ids=IdMap([*ids[:-1], "i99"]),
        user_ids=IdMap(["u1", "u2", "u3", "u4", "u5", "u7"]),
        schema=encoder.schema.model_copy(update={"value_meaning": "stars"}),
    )
    items = parts.items.set_column(0, "item_id", pa.array([*ids[:-1], "i99"]))
    changed = dataclasses.replace(
        parts,
        config_yaml="name: small\ntraining: {epochs: 3, until: 2017-12-01}\n",
        encoder=other,
        items=items,
        metrics={"two_tower": {"recall_at_100": 0.75}},
    )
    later = {"as_of": dt.date(2017, 12, 2), "package_versions": {"hnswlib": "0.9.0"}, "configuration_digest": "other"}
    version = write(tmp_path, changed, facts.model_copy(update=later))
    found = compare(written, tmp_path / version)
    assert found.configuration == {"training.epochs": {"new": 3}, "training.until": {"new": "2017-12-01"}}
    assert found.dataset_schema == {"value_meaning": {"old": "business value", "new": "stars"}}
    assert found.facts == {
        "as_of": {"old": "2017-12-01", "new": "2017-12-02"},
        "package_versions.hnswlib": {"old": "0.8.0", "new": "0.9.0"},
    }
    assert found.metrics == {"two_tower.recall_at_100": {"old": 0.25, "new": 0.75, "difference": 0.5}}
    assert found.items == Exchange(1, 1, {"i99": "name 39"}, {"i39": "name 39"})
    assert found.users == Exchange(1, 1, {"u7": None}, {"u6": None})
    assert found.size_bytes["config.yaml"]["old"] == len("name: small\n")
    assert "total" in found.size_bytes


def test_a_damaged_bundle_is_not_compared(written: Path, folder: Path) -> None:
    (folder / "items.parquet").write_bytes(b"")
    for pair in ((written, folder), (folder, written)):
        with pytest.raises(BundleError, match=r"items\.parquet: has 0 bytes, expected"):
            compare(*pair)


@pytest.mark.parametrize(("text", "message"), [("- a", "holds list, expected a mapping"), ("a: [", "not valid YAML")])
def test_an_invalid_configuration_is_refused(
    written: Path, folder: Path, sign: Callable[..., Path], text: str, message: str
) -> None:
    (folder / "config.yaml").write_text(text)
    with pytest.raises(BundleError, match=message):
        compare(written, sign(folder))
