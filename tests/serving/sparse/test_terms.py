"""Categories are terms as they are, texts are words, and the numbers of terms do not depend on how items are cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.schema import Schema
from serving.sparse.fields import Field, fields_of
from serving.sparse.terms import count_terms, terms_of, words

SCHEMA = Schema.model_validate(
    {"item_columns": {"aisle": "categorical", "kind": ["categorical", "text"], "tags": "categories", "size": "numeric"}}
)
ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c"],
        "item_name": ["Rye crackers", None, "Crackers, crackers"],
        "aisle": ["SNACKS", None, "SNACKS"],
        "kind": ["Crackers gluten-free", "Milk", ""],
        "tags": [["vegan", "new"], [], None],
        "size": [1.0, 2.0, 3.0],
    }
)


def test_fields_are_the_categories_and_the_texts_and_the_names() -> None:
    assert fields_of(SCHEMA) == (
        Field("item_name", "item_name", True, 0.0),
        Field("aisle", "aisle", False, 1.0),
        Field("kind", "kind", False, 1.0),
        Field("kind_text", "kind", True, 1.0),
        Field("tags", "tags", False, 1.0),
    )
    weighed = fields_of(SCHEMA, {"kind_text": 2.0, "item_name": 0.5})
    assert [field.weight for field in weighed] == [0.5, 0.0, 0.0, 2.0, 0.0]
    # Where nothing else is declared, there are the names.
    assert fields_of(Schema()) == (Field("item_name", "item_name", True, 1.0),)


def test_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"sparse\.fields names 'size', expected some of: item_name, aisle, kind, kind"
    ):
        fields_of(SCHEMA, {"size": 1.0})


def test_words_are_runs_of_letters_and_digits_of_any_script() -> None:
    assert words("Gluten-FREE crackers, 7.5 oz; Смета́на") == [
        "gluten",
        "free",
        "crackers",
        "7",
        "5",
        "oz",
        *words("Смета́на"),
    ]
    assert words("...") == []


def test_terms_are_counted_by_item_and_field() -> None:
    fields = fields_of(SCHEMA)
    vocabulary, counts = count_terms(terms_of(ITEMS, fields), fields, num_items=3)
    found = {}
    for item, row in enumerate(counts.toarray()):
        found[item] = {
            (fields[vocabulary.field_of[term]].name, vocabulary.terms[term]): int(row[term])
            for term in np.flatnonzero(row)
        }
    names = {("item_name", "rye"): 1, ("item_name", "crackers"): 1}
    kind = {("kind", "Crackers gluten-free"): 1} | {("kind_text", word): 1 for word in ("crackers", "gluten", "free")}
    assert found[0] == names | kind | {("aisle", "SNACKS"): 1, ("tags", "vegan"): 1, ("tags", "new"): 1}
    assert found[1] == {("kind", "Milk"): 1, ("kind_text", "milk"): 1}
    assert found[2] == {("item_name", "crackers"): 2, ("aisle", "SNACKS"): 1}
    assert vocabulary.weights.tolist() == [0.0] * 2 + [1.0] * (len(vocabulary) - 2)


def test_blocks_of_items_in_any_order_give_the_same_numbers() -> None:
    fields = fields_of(SCHEMA)
    blocks = [terms_of(ITEMS.slice(begin, 1), fields, first_row=begin) for begin in (2, 0, 1)]
    whole, counts = count_terms(terms_of(ITEMS, fields), fields, num_items=3)
    parts, own = count_terms(pa.concat_tables(blocks), fields, num_items=3)
    assert parts.terms == whole.terms
    assert parts.field_of.tolist() == whole.field_of.tolist()
    np.testing.assert_array_equal(own.toarray(), counts.toarray())
