"""A small file is replaced as a whole, and JSON holds only what JSON has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artefacts.files import json_text, json_value, replace_text


def test_a_file_is_replaced_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "day.txt"
    for text in ("2024-02-04", "2024-02-05"):
        replace_text(path, text)
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["day.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "day.txt"
    replace_text(path, "2024-02-04")

    def half(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text.encode(encoding)[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        replace_text(path, "2024-02-05")
    assert path.read_text() == "2024-02-04"
    assert os.listdir(tmp_path) == ["day.txt"]


def refused(constant: str) -> None:
    raise AssertionError(constant)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_json_holds_no_number_that_json_has_not(value: object) -> None:
    assert json.loads(json_text(value, indent=1), parse_constant=refused) == json_value(json_text(value))


def test_numbers_that_are_not_finite_become_null_and_others_stay() -> None:
    value = {"recall": np.float64("nan"), "by k": [(1, float("inf")), {"10": -float("inf"), "100": 0.5}], "n": 3}
    assert json_text(value) == '{"recall": null, "by k": [[1, null], {"10": null, "100": 0.5}], "n": 3}'
    assert json_text({"b": Path("x"), "a": "ä"}, default=str, sort_keys=True) == '{"a": "\\u00e4", "b": "x"}'
    assert json_text("ä", ensure_ascii=False) == '"ä"'
