"""A small file is replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artefacts.files import replace_text


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
