"""Withdrawn items: known from events, but missing from the table of items."""

from __future__ import annotations

from typing import Any

from features.tables import read_items, withdrawn_items

EVENTS = "user_id,item_id,timestamp\nu1,i1,10\nu1,i2,20\nu2,i9,30\n"


def test_items_missing_from_the_table_of_items_are_withdrawn_and_stay_in_the_tables(shop: Any) -> None:
    shop.ingest(EVENTS, items="item_id\ni2\ni3\n")
    assert withdrawn_items(shop.out) == ["i1", "i9"]
    assert read_items(shop.out).column("item_id").to_pylist() == ["i1", "i2", "i3", "i9"]
    shop.ingest(EVENTS, items="item_id\ni1\ni2\ni9\n")
    assert withdrawn_items(shop.out) == []


def test_without_a_table_of_items_nothing_is_withdrawn(shop: Any) -> None:
    shop.ingest(EVENTS)
    assert withdrawn_items(shop.out) == []
